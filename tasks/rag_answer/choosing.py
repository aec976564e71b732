"""A question with its own passages -> the record, with distractors among them.

Distractors and rows whose gold is taken out are from RAFT (Zhang et al. 2024, arXiv:2403.10131).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from searchlora.errors import UsageError
from searchlora.records import Document, Options, RejectedRow, SourceRow
from searchlora.retrieval.analysis import Analyzer
from searchlora.retrieval.bm25 import BM25Index
from searchlora.tasks.rag_answer import settings
from searchlora.tasks.rag_answer.citing import RULES, cited, reference_sentences, shortened
from searchlora.tasks.rag_answer.evidence import SUPPORTED, support
from searchlora.tasks.rag_answer.shown import passage_texts, search_text

TAKEN_OUT = "gold taken out"

#: Behind the id of such a row.
WITHOUT_GOLD = "_without_gold"

OPTIONS = {
    "passages": "how many passages every row has, distractors among them (default 5)",
    "gold": "how many of them at most are the row's own (default 3, or all)",
    "missing": "for this share of the answerable rows, one more without its gold passages, whose answer is to abstain "
    "(default 0.2, as in RAFT)",
    "sentences": "how many sentences an answer has at most (default 3)",
    "shuffle": "seed of the order of the passages (default 13)",
}


@dataclass(frozen=True)
class Asked:
    """A question as a source has it.

    Attributes:
        reference: Its published answer; None where the right answer is to abstain.
        own: Its passages: gold, or where there is no answer, what is shown all the same.
        related: Ids of passages that may hold its answer too, though nobody said so.
    """

    id: str
    group: str
    question: str
    history: Sequence[dict[str, str]]
    reference: str | None
    own: Sequence[Document]
    kind: str
    source: str
    where: str
    related: frozenset[str] = frozenset()
    split: str | None = None


@dataclass(frozen=True)
class Choice:
    """How rows are made of what was asked; see `OPTIONS`, and for what is shown of a passage `settings.OPTIONS`."""

    passages: int = 5
    gold: int = 3
    missing: float = 0.2
    sentences: int = 3
    shuffle: int = 13
    words: int = settings.DEFAULT["words"]

    @classmethod
    def of(cls, options: Options) -> Choice:
        """Raises `UsageError` for a value that is no number, or out of range."""
        passages = _number(options, "passages", cls.passages)
        choice = cls(
            passages=passages,
            gold=_number(options, "gold", min(cls.gold, passages)),
            missing=_share(options, "missing", cls.missing),
            sentences=_number(options, "sentences", cls.sentences),
            shuffle=_number(options, "shuffle", cls.shuffle),
            words=settings.words_of(options),
        )
        if choice.gold > choice.passages:
            raise UsageError(
                f"gold={choice.gold} of passages={choice.passages} cannot be",
                where="--option",
                fix="Give gold= a number up to passages=.",
            )
        return choice

    @property
    def rules(self) -> tuple[str, ...]:
        """What the dataset's card says of it."""
        return (
            f"Every row has {self.passages} passages: at most {self.gold} of its own (those that support the answer "
            "most), the rest distractors from the same pool, by BM25 for the question and the user's turn before it, "
            "then by chance; shuffled. An unanswerable row has none of its own, but for a question of SQuAD that its "
            "paragraph does not answer.",
            "A passage is no distractor of an answerable row where it is its own, or of another row of its group of "
            "conversations, or where it supports a sentence of the answer.",
            *RULES,
            f"An answer has {self.sentences} sentences at most; of a passage {self.words} words are shown at most.",
            f"For {self.missing:.0%} of the answerable rows there is one more without its gold passages, to be "
            f"abstained from ('{TAKEN_OUT}').",
        )


class Pool:
    """The passages of one collection, from which distractors are taken."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = {document.id: document for document in documents}

    @cached_property
    def _index(self) -> BM25Index:
        return BM25Index(self.documents.values(), analyzer=Analyzer(stemmer="english"))

    def near(self, query: str, k: int, chance: random.Random) -> Iterator[Document]:
        """The first `k` by BM25, then all others in an order by chance."""
        ranked = [hit.document for hit in self._index.search([query], k)[0]]
        yield from (self.documents[name] for name in ranked)
        others = sorted(set(self.documents) - set(ranked))
        chance.shuffle(others)
        yield from (self.documents[name] for name in others)


def rows(asked: Sequence[Asked], pool: Pool, choice: Choice, counts: Counter[str]) -> Iterator[SourceRow | RejectedRow]:
    """The records of the questions of one pool, each followed by the one without gold where it was drawn.

    Args:
        counts: Is added to, for the card.
    """
    for row in asked:
        chance = random.Random(f"{choice.shuffle}:{row.id}")
        yield _counted(_row(row, pool, choice, chance), counts)
        if row.reference is not None and chance.random() < choice.missing:
            yield _counted(_row(row, pool, choice, chance, without_gold=True), counts)


def _counted(row: SourceRow | RejectedRow, counts: Counter[str]) -> SourceRow | RejectedRow:
    if isinstance(row, SourceRow):
        counts[f"rows '{row.data['kind']}'"] += 1
        counts["answers without a citation"] += "answer" in row.data and "[" not in row.data["answer"]
    return row


def _row(
    row: Asked, pool: Pool, choice: Choice, chance: random.Random, *, without_gold: bool = False
) -> SourceRow | RejectedRow:
    reference = reference_sentences(row.reference) if row.reference is not None else []
    if row.reference is not None and not reference:
        return RejectedRow(row.where, "its answer holds no sentence", {"id": row.id})
    own = [] if without_gold else _most_supporting(row.own, reference, choice.gold)
    shown = [*own, *_distractors(row, reference, pool, choice.passages - len(own), chance)]
    if len(shown) < choice.passages:
        why = f"its pool has fewer than {choice.passages} passages to show; --option passages= says how many a row has"
        return RejectedRow(row.where, why, {"id": row.id})
    chance.shuffle(shown)
    answerable = bool(reference) and not without_gold
    gold = {passage.id for passage in own} if answerable else set()
    record: dict[str, object] = {
        "id": f"{row.id}{WITHOUT_GOLD}" if without_gold else row.id,
        "group": row.group,
        "question": row.question,
        "history": list(row.history),
        "passages": [{"id": each.id, "title": each.title, "text": each.text} for each in shown],
        "gold": [each.id for each in shown if each.id in gold],
        "answerable": answerable,
        "kind": TAKEN_OUT if without_gold else row.kind,
        "source": row.source,
    }
    if answerable:
        numbered = {place: each.searchable for place, each in enumerate(shown, start=1) if each.id in gold}
        visible = [text for place, text in enumerate(passage_texts(record, choice.words), start=1) if place in numbered]
        answer = cited(shortened(reference, visible, choice.sentences), numbered)
        record |= {"answer": answer, "reference": " ".join(str(row.reference).split())}
    return SourceRow(record if row.split is None else {**record, "split": row.split}, row.where)


def _most_supporting(own: Sequence[Document], reference: Sequence[str], most: int) -> list[Document]:
    def help_of(document: Document) -> float:
        return sum(support(sentence, document.searchable) or 0.0 for sentence in reference)

    return sorted(own, key=help_of, reverse=True)[:most]


def _distractors(
    row: Asked, reference: Sequence[str], pool: Pool, wanted: int, chance: random.Random
) -> Iterator[Document]:
    """Passages of the pool that look as if they held the answer, and do not."""
    barred = {passage.id for passage in row.own} | (row.related if reference else frozenset())
    query = search_text({"question": row.question, "history": row.history})
    fitting = (
        document
        for document in pool.near(query, 10 * wanted + len(barred), chance)
        if document.id not in barred
        and not any((support(sentence, document.searchable) or 0.0) >= SUPPORTED for sentence in reference)
    )
    return islice(fitting, wanted)


def _number(options: Options, name: str, default: int) -> int:
    given = options.get(name, str(default))
    if not given.isdigit() or int(given) < 1:
        raise UsageError(f"{name} is a whole number from 1 on, not '{given}'", where="--option")
    return int(given)


def _share(options: Options, name: str, default: float) -> float:
    given = options.get(name, str(default))
    try:
        share = float(given)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"{name} is a share from 0 to 1, not '{given}'", where="--option")
    return share
