"""Guards of an adapter stage: what must hold before its output takes the place of what was there.

A guard that acts is a flag of the trace, and, if it took the place of an output, in the field `guarded` of the search:
label of the stage -> guard.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import Field

from searchlora.eval.text_identity import words
from searchlora.outputs import Graded
from searchlora.pipelines.stages.stage import Settings
from searchlora.records import Evidence, Record, SearchContext
from searchlora.retrieval.retriever import Retriever
from searchlora.task import GenerationTask

#: A phrase in quotation marks; a mark behind a digit means inches.
_QUOTED = re.compile(r'(?<!\d)["“]([^"”]+)["”]')

#: Field of a search: label of a stage -> the guard that acted.
GUARDED = "guarded"

#: The guards: a rewrite lost a protected word, or its hits; the order was sure; an answer had no evidence.
WORDS, TOP_SCORE, SURE, EVIDENCE = "words", "top_score", "sure", "evidence"


class RewriteGuard(Settings):
    """`rewrite_guard: {words: [pro, max], top_score: 0.6}`: when a rewrite is refused, and the query stays as it is."""

    words: list[str] = Field(
        default_factory=list,
        description="words that a rewrite must keep if the query has them, besides words with a digit and phrases in"
        " quotation marks",
    )
    top_score: float | None = Field(
        None,
        gt=0,
        le=1,
        description="lowest BM25 score of the best hit, as a share of that of the query before; a rewrite without hits"
        " has 0; needs the documents",
    )

    def refuses(
        self, task: GenerationTask, record: Record, before: str, after: str, bm25: Retriever | None
    ) -> str | None:
        """The guard that refuses a rewrite; None if it is accepted.

        Args:
            record: What the task has rewritten.
            bm25: Needed for `top_score`.
        """
        listed = [word for word in self.words if f" {' '.join(words(word))} " in f" {' '.join(words(before))} "]
        protected = [*record.get("protected", ()), *listed, *_QUOTED.findall(before)]
        if not task.keeps_protected({**record, "protected": protected}, after):
            return WORDS
        if self.top_score is not None and bm25 is not None:
            query, rewrite = (hits[0].score if hits else 0.0 for hits in bm25.search([before, after], 1))
            if rewrite < self.top_score * query:
                return TOP_SCORE
        return None


def grades(task: GenerationTask) -> bool:
    """Whether a task grades passages, as judges do."""
    return bool(task.examples) and isinstance(task.output(task.examples[0]), Graded)


def score_gap(search: SearchContext) -> float:
    """How far the first passage is ahead of the second: the difference of their scores as a share of the first.

    1 with a single passage, 0 with a best score that is not positive.

    Examples:
        >>> score_gap({"passages": [{"id": "d1", "score": 8.0}, {"id": "d2", "score": 6.0}]})
        0.25
    """
    scores = [float(passage.get("score", 0.0)) for passage in search["passages"][:2]]
    if len(scores) < 2:
        return 1.0
    return (scores[0] - scores[1]) / scores[0] if scores[0] > 0 else 0.0


def support(evidence: Sequence[Evidence]) -> float:
    """The share of an answer's sentences that passages support; 1 if no sentence says anything.

    Examples:
        >>> support([Evidence("It weighs 2 kg.", (1,), True, (), ()), Evidence("It is red.", (), False, (), ())])
        0.5
    """
    known = [sentence.supported for sentence in evidence if sentence.supported is not None]
    return sum(known) / len(known) if known else 1.0


def with_guard(search: SearchContext, label: str, guard: str) -> SearchContext:
    """A search in which a guard of a stage has acted."""
    return {**search, GUARDED: {**search.get(GUARDED, {}), label: guard}}
