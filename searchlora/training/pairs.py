"""Training rows of an encoder: a text, one that it shall find, and some that it shall not."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from searchlora.data.text import fingerprint, normalised
from searchlora.errors import TrainingError
from searchlora.records import Record
from searchlora.task import EncoderTask


@dataclass(frozen=True)
class PairRow:
    """A row of contrastive training.

    Attributes:
        finds: What the anchor is right to find: fingerprints of texts, or of its label.
        shows: What the row puts before the anchors of other rows: the same of positive and negatives.
    """

    anchor: str
    positive: str
    negatives: tuple[str, ...]
    finds: frozenset[int]
    shows: frozenset[int]

    def clashes(self, finds: set[int], shows: set[int]) -> bool:
        """Whether rows that find and show these would make a false negative beside this one."""
        return not self.finds.isdisjoint(shows) or not self.shows.isdisjoint(finds)


def text_key(text: str) -> int:
    """What stands for a text; the same for texts that differ in case and punctuation only."""
    return fingerprint(normalised(text))


def pair_rows(
    task: EncoderTask,
    records: Sequence[Record],
    *,
    mined: Mapping[str, Sequence[str]] | None = None,
    negatives: int = 1,
    seed: int = 13,
) -> list[PairRow]:
    """One row for each text that a record shall find; for a record with a label, one with another text of that label.

    Args:
        mined: Record id -> hard negatives, beside the record's own.
        negatives: Of a row, where any record has some. A row with fewer is filled with texts that others shall find.

    Raises:
        TrainingError: when there is no row, or some records have a label and others none.
    """
    labelled = [task.label(record) is not None for record in records]
    if any(labelled) and not all(labelled):
        raise TrainingError("some records have a label and others none", fix="Build two datasets of them.")
    rows = list(_by_label(task, records, seed)) if any(labelled) else _by_text(task, records, mined or {}, negatives)
    if len(rows) < 2:
        raise TrainingError("there are no two pairs to train on", fix="Check the dataset's train.jsonl.")
    return rows


def _by_text(
    task: EncoderTask, records: Sequence[Record], mined: Mapping[str, Sequence[str]], count: int
) -> list[PairRow]:
    found = [(record, [*task.negatives(record), *mined.get(str(record["id"]), ())]) for record in records]
    width = count if any(given for _, given in found) else 0
    fill = _Fill([text for record in records for text in task.positives(record)])
    rows = []
    for record, given in found:
        finds = frozenset(map(text_key, task.positives(record)))
        for positive in task.positives(record):
            kept = fill.up_to(width, given, finds)
            shows = frozenset(map(text_key, [positive, *kept]))
            rows.append(PairRow(task.query(record), positive, tuple(kept), finds, shows))
    return rows


class _Fill:
    """Texts for rows that have too few negatives, in turn."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.at = 0

    def up_to(self, count: int, given: Sequence[str], finds: frozenset[int]) -> list[str]:
        kept = [text for text in dict.fromkeys(given) if text_key(text) not in finds][:count]
        tried = 0
        while len(kept) < count and tried < len(self.texts):
            text = self.texts[self.at % len(self.texts)]
            self.at, tried = self.at + 1, tried + 1
            if text_key(text) not in finds and text not in kept:
                kept.append(text)
        if len(kept) < count:
            raise TrainingError(
                f"there are no {count} texts that a query shall not find", fix="Lower negatives.per_query."
            )
        return kept


def _by_label(task: EncoderTask, records: Sequence[Record], seed: int) -> Iterator[PairRow]:
    of_label: dict[str, list[str]] = {}
    for record in records:
        of_label.setdefault(str(task.label(record)), []).append(task.query(record))
    generator = random.Random(seed)
    for record in records:
        label, text = str(task.label(record)), task.query(record)
        others = [other for other in of_label[label] if other != text]
        if others:  # a text that is alone in its class has nothing to lie close to
            key = frozenset([fingerprint(label)])
            yield PairRow(text, generator.choice(others), (), key, key)
