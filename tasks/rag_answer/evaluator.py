"""Answers are scored by whether they should have been given, by what they cite, and by their evidence.

Likeness to a reference stands beside that, never for it.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from searchlora.eval.aggregate import (
    Aggregate,
    f1,
    macro_f1,
    micro_f1,
    micro_precision,
    micro_recall,
    precision,
    recall,
)
from searchlora.eval.evaluation import Confusion, Evaluation, confusion_matrix
from searchlora.eval.measures import rouge_l
from searchlora.outputs import CitedAnswer, InvalidOutput
from searchlora.records import Record
from searchlora.task import EvaluationInput
from searchlora.tasks.rag_answer.evidence import SUPPORTED, supported
from searchlora.tasks.rag_answer.sentences import Sentence, sentences, without_marks

HEADLINE = "answerability F1"
TESTED = (HEADLINE, "abstention F1", "citation F1", "citation precision", "citation recall")
ANSWERED, ABSTAINED = "answered", "abstained"
_PUNCTUATION = str.maketrans("", "", string.punctuation)

OF_CITATIONS = (
    "Citations are held against the gold passages of a row, pooled over rows: precision over all citations, those of "
    "answers that should not have been given among them; recall over all gold passages, those of answers not given "
    "among them."
)
NOTES = (
    "Abstention F1, precision and recall are of the class of unanswerable rows, answering F1 of the answerable ones. "
    "Answerability F1 is the mean of both: the first alone would praise who always abstains. An invalid output counts "
    "as the abstention that a pipeline falls back on.",
    OF_CITATIONS,
    f"A sentence is supported by a passage that has {SUPPORTED:g} of its content words and all of its numbers "
    "(K-Precision, Adlakha et al. 2024). No person's labels of support were at hand.",
    "Token F1 and ROUGE-L are of the answerable rows, against the whole reference without citations; an abstention "
    "there counts as 0.",
)


@dataclass(frozen=True)
class _Row:
    record: Record
    output: CitedAnswer | InvalidOutput

    @property
    def id(self) -> str:
        return str(self.record["id"])

    @property
    def answer(self) -> CitedAnswer | None:
        """What was answered; None for an abstention, and for an invalid output in its place."""
        return self.output if isinstance(self.output, CitedAnswer) and not self.output.abstained else None

    @cached_property
    def sentences(self) -> Sequence[Sentence]:
        return sentences(self.answer.text) if self.answer else ()

    @cached_property
    def passages(self) -> Sequence[str]:
        return [f"{each.get('title') or ''} {each['text']}" for each in self.record["passages"]]

    @property
    def gold(self) -> set[int]:
        """The numbers of the gold passages."""
        gold = set(self.record.get("gold", ()))
        return {place for place, each in enumerate(self.record["passages"], start=1) if each["id"] in gold}

    @property
    def cited(self) -> set[int]:
        return set(self.answer.citations) if self.answer else set()


def evaluate(inputs: EvaluationInput, *, citations: bool = True) -> Evaluation:
    """Measure answers, one per record, over all records; an invalid one counts as an abstention.

    Aggregates (functions of sums over rows):
        answerability F1 (headline): the mean of the next two, where there are rows of both kinds.
        abstention F1, precision, recall: abstained, of the rows that are not answerable.
        answering F1: of the rows that are.
        citation precision, recall, F1: citations against gold passages, of rows whose gold is known (an answerable row
            without gold passages is left out).
        unsupported sentences: of the sentences of all answers, those that no given passage supports (`evidence`).
        unsupported by what they cite: of the sentences with citations, those that no cited passage supports.
        sentences that cite: of the sentences of all answers, those with a citation.

    Measures per row:
        right to answer: 1 where an answerable row was answered, or another abstained from.
        token F1, ROUGE-L: against the reference, of the answerable rows.
        words: of the answers.
        cites what was not given: 1 where the output is invalid because of that.
        invalid: 1 where it did not parse.

    Args:
        citations: Whether answers cite; if not, citations are not measured.
    """
    rows = [_Row(record, output) for record, output in zip(inputs.records, inputs.outputs, strict=True)]
    values = {
        "right to answer": {row.id: float(row.record["answerable"] == (row.answer is not None)) for row in rows},
        **_likeness([row for row in rows if row.record["answerable"]]),
        "words": {row.id: float(len(without_marks(row.answer.text).split())) for row in rows if row.answer},
        "cites what was not given": {row.id: float(_out_of_range(row.output)) for row in rows},
        "invalid": {row.id: float(isinstance(row.output, InvalidOutput)) for row in rows},
    }
    return Evaluation(
        headline=HEADLINE,
        values={measure: its for measure, its in values.items() if its},
        aggregates={**_answerability(rows), **(_citations(rows) if citations else {}), **_evidence(rows)},
        clusters=inputs.clusters,
        slices={
            **inputs.slices("kind", "source"),
            "conversation": {row.id: "yes" if row.record.get("history") else "no" for row in rows},
        },
        invalid=inputs.invalid,
        confusions={"what should have been done, and what was": _confusion(rows)},
        tested=TESTED if citations else TESTED[:2],
        notes=NOTES if citations else tuple(note for note in NOTES if note is not OF_CITATIONS),
        less_is_better=(
            "unsupported sentences",
            "unsupported by what they cite",
            "words",
            "cites what was not given",
            "invalid",
        ),
    )


def token_f1(answer: str, reference: str) -> float:
    """F1 of the words that two texts share, as in SQuAD (Rajpurkar et al. 2016): without punctuation and articles."""
    ours, theirs = _words(answer), _words(reference)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def _words(text: str) -> list[str]:
    """As SQuAD's evaluation script (v1.1) normalises an answer."""
    bare = text.lower().translate(_PUNCTUATION)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def _answerability(rows: Sequence[_Row]) -> dict[str, Aggregate]:
    silent = {row.id: not row.record["answerable"] for row in rows}
    abstained: dict[str, bool | None] = {row.id: row.answer is None for row in rows}
    return {
        HEADLINE: macro_f1(_classes(silent), _classes(abstained), (ANSWERED, ABSTAINED)),
        "abstention F1": f1(silent, abstained),
        "abstention precision": precision(silent, abstained),
        "abstention recall": recall(silent, abstained),
        "answering F1": f1(
            {row: not value for row, value in silent.items()}, {row: not value for row, value in abstained.items()}
        ),
    }


def _citations(rows: Sequence[_Row]) -> dict[str, Aggregate]:
    judged = [row for row in rows if row.gold or not row.record["answerable"]]
    hits = {row.id: float(len(row.cited & row.gold)) for row in judged}
    cited = {row.id: float(len(row.cited)) for row in judged}
    gold = {row.id: float(len(row.gold)) for row in judged}
    return {
        "citation precision": micro_precision(hits, cited),
        "citation recall": micro_recall(hits, gold),
        "citation F1": micro_f1(hits, cited, gold),
    }


def _classes(abstained: Mapping[str, bool | None]) -> dict[str, str]:
    return {row: ABSTAINED if silent else ANSWERED for row, silent in abstained.items()}


def _evidence(rows: Sequence[_Row]) -> dict[str, Aggregate]:
    said, unsupported, citing, wrong = ({row.id: 0.0 for row in rows} for _ in range(4))
    for row in rows:
        for sentence in row.sentences:
            backed = supported(sentence.text, row.passages)
            if backed is None:
                continue
            said[row.id] += 1
            unsupported[row.id] += not backed
            if sentence.citations:
                citing[row.id] += 1
                wrong[row.id] += not supported(
                    sentence.text, [row.passages[number - 1] for number in sentence.citations]
                )
    return {
        "unsupported sentences": micro_precision(unsupported, said),
        "unsupported by what they cite": micro_precision(wrong, citing),
        "sentences that cite": micro_precision(citing, said),
    }


def _likeness(rows: Sequence[_Row]) -> dict[str, dict[str, float]]:
    if not rows:
        return {}
    references = [without_marks(str(row.record.get("reference") or row.record["answer"])) for row in rows]
    ours = [without_marks(row.answer.text) if row.answer else "" for row in rows]
    return {
        "token F1": {row.id: token_f1(text, to) for row, text, to in zip(rows, ours, references, strict=True)},
        "ROUGE-L": dict(zip([row.id for row in rows], rouge_l(ours, references), strict=True)),
    }


def _confusion(rows: Sequence[_Row]) -> Confusion:
    gold = {row.id: ANSWERED if row.record["answerable"] else ABSTAINED for row in rows}
    said = {
        row.id: None if isinstance(row.output, InvalidOutput) else ANSWERED if row.answer else ABSTAINED for row in rows
    }
    return confusion_matrix(gold, said, (ANSWERED, ABSTAINED))


def _out_of_range(output: CitedAnswer | InvalidOutput) -> bool:
    return isinstance(output, InvalidOutput) and output.reason.startswith("cites passage")
