"""Training records from questions with gold passages: distractors, citations, and unanswerable variants.

Distractor passages and variants without gold passages follow RAFT (Zhang et al. 2024, arXiv:2403.10131).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice

from searchlora.data.formats.common import number, whole_number
from searchlora.errors import DataError, UsageError
from searchlora.records import Document, Option, Options, RejectedRow, SourceRow
from searchlora.retrieval.analysis import Analyzer
from searchlora.retrieval.bm25 import BM25Index
from searchlora.tasks.rag_answer import settings
from searchlora.tasks.rag_answer.citations import (
    RULES,
    SUPPORTED,
    cited,
    leading_supported,
    reference_sentences,
    support,
)
from searchlora.tasks.rag_answer.settings import passage_texts, search_text

#: The kind of a record without its gold passages, and the suffix of its id.
WITHOUT_GOLD = "gold taken out"
WITHOUT_GOLD_SUFFIX = "_without_gold"


@dataclass(frozen=True)
class SourceQuestion:
    """A question of a source collection."""

    id: str
    group: str
    question: str
    reference: str | None  # the published answer; None for an unanswerable question
    passages: Sequence[Document]
    kind: str
    source: str
    where: str
    history: Sequence[dict[str, str]] = ()
    related: frozenset[str] = frozenset()
    split: str | None = None


@dataclass(frozen=True)
class RecordPlan:
    """How records are made from source questions; see `OPTIONS`, and `settings.OPTIONS` for `words`."""

    passages: int = 5
    gold: int = 3
    missing: float = 0.2
    sentences: int = 3
    shuffle: int = 13
    words: int = settings.DEFAULT["words"]

    @classmethod
    def from_options(cls, options: Options) -> RecordPlan:
        """Read the builder's options. Raises `UsageError` for a value that is not a number or out of range."""
        whole = partial(whole_number, options, minimum=1)
        passages = whole("passages", cls.passages)
        plan = cls(
            passages=passages,
            gold=whole("gold", min(cls.gold, passages)),
            missing=number(options, "missing", cls.missing, 0, 1),
            sentences=whole("sentences", cls.sentences),
            shuffle=whole("shuffle", cls.shuffle),
            words=settings.words_from(options),
        )
        if plan.gold > plan.passages:
            raise UsageError(
                f"gold={plan.gold} exceeds passages={plan.passages}",
                where="--option",
                fix="Give gold= a number up to passages=.",
            )
        return plan

    @property
    def rules(self) -> tuple[str, ...]:
        """Description for the dataset card."""
        return (
            f"Every row has {self.passages} passages in random order: at most {self.gold} gold passages (those that "
            "support the answer most), and distractors from the same pool, by BM25 for the question and the user's "
            "previous turn, then random. Unanswerable rows have no gold passage, except that a question of SQuAD "
            "keeps the paragraph that does not answer it.",
            "A passage is not used as a distractor of an answerable row if it is a gold passage of the row or of its "
            "group, or if it supports a sentence of the answer.",
            *RULES,
            f"An answer has at most {self.sentences} sentences; the prompt shows at most {self.words} words per "
            "passage.",
            f"{self.missing:.0%} of the answerable rows have a second row without gold passages, whose answer is the "
            f"abstention ('{WITHOUT_GOLD}').",
        )


OPTIONS: Mapping[str, Option] = {
    "passages": Option(
        "number of passages per row, including distractors", "whole number ≥ 1", f"{RecordPlan.passages}"
    ),
    "gold": Option(
        "maximum number of gold passages per row, at most `passages`", "whole number ≥ 1", f"{RecordPlan.gold}"
    ),
    "missing": Option(
        "share of answerable rows that get a second, unanswerable row without gold passages",
        "number from 0 to 1",
        f"{RecordPlan.missing:g}",
    ),
    "sentences": Option("maximum number of sentences of an answer", "whole number ≥ 1", f"{RecordPlan.sentences}"),
    "shuffle": Option("random seed of the passage order", "whole number ≥ 1", f"{RecordPlan.shuffle}"),
}


class PassagePool:
    """The passages of one collection, from which distractors are drawn."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = {document.id: document for document in documents}

    @cached_property
    def _index(self) -> BM25Index | None:
        """None where no passage holds a word."""
        try:
            return BM25Index(self.documents.values(), analyzer=Analyzer(stemmer="english"))
        except DataError:
            return None

    def candidates(self, query: str, k: int, rng: random.Random) -> Iterator[Document]:
        """The top `k` passages by BM25, then all others in random order."""
        ranked = [hit.document for hit in self._index.search([query], k)[0]] if self._index is not None else []
        yield from (self.documents[id_] for id_ in ranked)
        others = sorted(set(self.documents) - set(ranked))
        rng.shuffle(others)
        yield from (self.documents[id_] for id_ in others)


def make_rows(
    questions: Sequence[SourceQuestion], pool: PassagePool, plan: RecordPlan, counts: Counter[str]
) -> Iterator[SourceRow | RejectedRow]:
    """The records of the questions of one pool, each followed by its variant without gold passages, if drawn."""
    for question in questions:
        rng = random.Random(f"{plan.shuffle}:{question.id}")
        yield _counted(_row(question, pool, plan, rng), counts)
        if question.reference is not None and rng.random() < plan.missing:
            yield _counted(_row(question, pool, plan, rng, without_gold=True), counts)


def _counted(row: SourceRow | RejectedRow, counts: Counter[str]) -> SourceRow | RejectedRow:
    if isinstance(row, SourceRow):
        counts[f"rows '{row.data['kind']}'"] += 1
        counts["answers without a citation"] += "answer" in row.data and "[" not in row.data["answer"]
    return row


def _row(
    question: SourceQuestion, pool: PassagePool, plan: RecordPlan, rng: random.Random, *, without_gold: bool = False
) -> SourceRow | RejectedRow:
    reference = reference_sentences(question.reference) if question.reference is not None else []
    if question.reference is not None and not reference:
        return RejectedRow(question.where, "its answer contains no sentence", {"id": question.id})
    own = [] if without_gold else _most_supporting(question.passages, reference, plan.gold)
    passages = [*own, *_distractors(question, reference, pool, plan.passages - len(own), rng)]
    if len(passages) < plan.passages:
        reason = f"its pool has fewer than {plan.passages} usable passages; lower --option passages="
        return RejectedRow(question.where, reason, {"id": question.id})
    rng.shuffle(passages)
    answerable = bool(reference) and not without_gold
    gold = {passage.id for passage in own} if answerable else set()
    record: dict[str, object] = {
        "id": f"{question.id}{WITHOUT_GOLD_SUFFIX}" if without_gold else question.id,
        "group": question.group,
        "question": question.question,
        "history": list(question.history),
        "passages": [{"id": passage.id, "title": passage.title, "text": passage.text} for passage in passages],
        "gold": [passage.id for passage in passages if passage.id in gold],
        "answerable": answerable,
        "kind": WITHOUT_GOLD if without_gold else question.kind,
        "source": question.source,
    }
    if answerable:
        full_texts = {number: passage.searchable for number, passage in enumerate(passages, 1) if passage.id in gold}
        visible = [text for number, text in enumerate(passage_texts(record, plan.words), 1) if number in full_texts]
        answer = cited(leading_supported(reference, visible, plan.sentences), full_texts)
        record |= {"answer": answer, "reference": " ".join(str(question.reference).split())}
    return SourceRow(record if question.split is None else {**record, "split": question.split}, question.where)


def _most_supporting(passages: Sequence[Document], reference: Sequence[str], count: int) -> list[Document]:
    def total_support(passage: Document) -> float:
        return sum(support(sentence, passage.searchable) or 0.0 for sentence in reference)

    return sorted(passages, key=total_support, reverse=True)[:count]


def _distractors(
    question: SourceQuestion, reference: Sequence[str], pool: PassagePool, count: int, rng: random.Random
) -> Iterator[Document]:
    """Passages of the pool that are similar to the question but do not support its answer."""
    excluded = {passage.id for passage in question.passages} | (question.related if reference else frozenset())
    query = search_text({"question": question.question, "history": question.history})
    usable = (
        document
        for document in pool.candidates(query, 10 * count + len(excluded), rng)
        if document.id not in excluded
        and not any((support(sentence, document.searchable) or 0.0) >= SUPPORTED for sentence in reference)
    )
    return islice(usable, count)
