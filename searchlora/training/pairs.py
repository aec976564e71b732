"""Rows of contrastive training: an anchor text, a positive, and hard negatives."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from searchlora.data.made_queries import made_query
from searchlora.errors import TrainingError
from searchlora.eval.text_identity import fingerprint, normalised
from searchlora.records import Document, Record
from searchlora.task import EncoderTask


@dataclass(frozen=True)
class PairRow:
    """A row of contrastive training."""

    anchor: str
    positive: str
    negatives: tuple[str, ...]
    relevant: frozenset[int]
    shown: tuple[int, ...]
    labelled: bool = False


def text_key(text: str) -> int:
    """A key of a text, equal for texts that differ only in case and punctuation.

    Examples:
        >>> text_key("A tent!") == text_key("a tent")
        True
    """
    return fingerprint(normalised(text))


def pair_rows(
    task: EncoderTask,
    records: Sequence[Record],
    *,
    mined: Mapping[str, Sequence[str]] | None = None,
    judged: Mapping[str, frozenset[int]] | None = None,
    negatives: int = 1,
    seed: int = 13,
) -> list[PairRow]:
    """One row per positive of a record; for a record with a label, one row with another text of that label.

    `mined`: Record id -> hard negatives, used after the record's own. `judged`: Record id -> keys of further relevant
    texts.
    """
    labelled = [task.label(record) is not None for record in records]
    if any(labelled) and not all(labelled):
        raise TrainingError("some records have a label and others none", fix="Build two datasets of them.")
    rows = (
        list(_rows_by_label(task, records, seed))
        if any(labelled)
        else _rows_by_text(task, records, mined or {}, judged or {}, negatives)
    )
    if len(rows) < 2:
        raise TrainingError("there are no two pairs to train on", fix="Check the dataset's train.jsonl.")
    return rows


def title_rows(documents: Sequence[Document]) -> list[PairRow]:
    """Rows whose query is the title of a document with a text; others with the same title are relevant, too."""
    titled = [document for document in documents if document.title and document.text]
    relevant: dict[int, set[int]] = {}
    for document in titled:
        relevant.setdefault(text_key(document.title), set()).add(text_key(document.searchable))
    return [
        PairRow(
            document.title,
            document.searchable,
            (),
            frozenset(relevant[text_key(document.title)]),
            (text_key(document.searchable),),
        )
        for document in titled
    ]


def made_rows(documents: Sequence[Document], seed: str) -> list[PairRow]:
    """A row per document with a query that is made of it by `made_query`."""
    return [
        PairRow(query, document.searchable, (), frozenset({key}), (key,))
        for document in documents
        if (query := made_query(document, seed))
        for key in (text_key(document.searchable),)
    ]


def one_relevance(rows: Sequence[PairRow]) -> list[PairRow]:
    """The rows, where rows of the same query have what is relevant to any of them."""
    relevant: dict[int, frozenset[int]] = {}
    for row in rows:
        key = text_key(row.anchor)
        relevant[key] = relevant.get(key, frozenset()) | row.relevant
    return [replace(row, relevant=relevant[text_key(row.anchor)]) for row in rows]


def _rows_by_text(
    task: EncoderTask,
    records: Sequence[Record],
    mined: Mapping[str, Sequence[str]],
    judged: Mapping[str, frozenset[int]],
    negatives: int,
) -> list[PairRow]:
    candidates = [(record, [*task.negatives(record), *mined.get(str(record["id"]), ())]) for record in records]
    count = negatives if any(texts for _, texts in candidates) else 0
    positives = [text for record in records for text in task.positives(record)]
    fillers = itertools.cycle(positives)
    rows = []
    for record, texts in candidates:
        relevant = frozenset(map(text_key, task.positives(record))) | judged.get(str(record["id"]), frozenset())
        for positive in task.positives(record):
            chosen = _completed(texts, count, relevant, fillers, len(positives))
            shown = tuple(map(text_key, [positive, *chosen]))
            rows.append(PairRow(task.query(record), positive, tuple(chosen), relevant, shown))
    return rows


def _completed(
    negatives: Sequence[str], count: int, relevant: frozenset[int], fillers: Iterator[str], tries: int
) -> list[str]:
    """`count` distinct texts, the negatives first, none of them relevant; of the fillers, so many are tried."""
    chosen = [text for text in dict.fromkeys(negatives) if text_key(text) not in relevant][:count]
    while len(chosen) < count and tries:
        text, tries = next(fillers), tries - 1
        if text_key(text) not in relevant and text not in chosen:
            chosen.append(text)
    if len(chosen) < count:
        raise TrainingError(f"there are no {count} negatives for a query", fix="Lower negatives.per_query.")
    return chosen


def _rows_by_label(task: EncoderTask, records: Sequence[Record], seed: int) -> Iterator[PairRow]:
    texts_by_label: dict[str, list[str]] = {}
    for record in records:
        texts_by_label.setdefault(str(task.label(record)), []).append(task.query(record))
    generator = random.Random(seed)
    for record in records:
        label, text = str(task.label(record)), task.query(record)
        others = [other for other in texts_by_label[label] if other != text]
        if others:  # a text that is alone in its class has no positive
            key = fingerprint(label)
            yield PairRow(text, generator.choice(others), (), frozenset([key]), (key,), labelled=True)
