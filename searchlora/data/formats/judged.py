"""Graded pairs of query and passage out of a test collection: topics, documents, judgments."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

from searchlora.errors import DataError
from searchlora.eval.trec import Qrels
from searchlora.records import Document, RejectedRow, SourceReport, SourceRow

_SEED = 13


@dataclass(frozen=True)
class Judged:
    """A test collection.

    Attributes:
        name: Of its source, for messages.
        queries: Topic -> query.
        documents: Goes through all documents; called once for the texts, and once more where unjudged ones are drawn.
        qrels: Split -> judgments; the split is None where the source has none.
        never: Pairs (topic, document) that are not to be drawn as unjudged.
    """

    name: str
    queries: Mapping[str, str]
    documents: Callable[[], Iterable[Document]]
    qrels: Mapping[str | None, Qrels]
    never: Set[tuple[str, str]] = frozenset()


def graded_pairs(collection: Judged, *, unjudged: int = 0) -> Iterator[SourceRow | RejectedRow | SourceReport]:
    """Every judged pair with its texts, split by split, in the order of the judgments.

    Only the texts of the pairs are held in memory. Pairs whose document is empty, as collections have some, are left
    out; a report at the end says how many.

    Args:
        unjudged: Of each topic, add so many documents that nobody judged for it, drawn at random, as grade 0. That is
            right where the judgments are (nearly) complete, and noise elsewhere.

    Yields:
        `topic`, `query`, `document`, `title`, `passage`, `grade`, `split`.

    Raises:
        DataError: when no topic of the judgments has a query, or there are fewer documents than are to be drawn.
    """
    drawn = _drawn(collection, unjudged) if unjudged else {}
    pairs = [pair for split, qrels in collection.qrels.items() for pair in _listed(split, qrels, drawn)]
    if not any(topic in collection.queries for _, topic, _, _ in pairs):
        raise DataError(
            "no topic of the judgments has a query", where=collection.name, fix="Do topics and qrels belong together?"
        )
    wanted = {document for _, _, document, _ in pairs}
    texts = {each.id: each for each in collection.documents() if each.id in wanted}
    empty = 0
    for split, topic, document, grade in pairs:
        where = f"{collection.name}, topic {topic}, document {document}"
        if topic not in collection.queries:
            yield RejectedRow(where, "the topic has no query")
        elif document not in texts:
            yield RejectedRow(where, "the document is not in the collection")
        elif not texts[document].searchable.strip():
            empty += 1
        else:
            row = {"topic": topic, "query": collection.queries[topic], "document": document, "grade": grade}
            yield SourceRow({**row, **_shown(texts[document]), "split": split}, where)
    if empty:
        yield SourceReport(("Pairs whose document is empty are left out.",), {"pairs with an empty document": empty})


def _listed(
    split: str | None, qrels: Qrels, drawn: Mapping[str, list[str]]
) -> Iterator[tuple[str | None, str, str, int]]:
    for topic, grades in qrels.items():
        for document, grade in grades.items():
            yield split, topic, document, grade
        for document in drawn.get(topic, []):
            yield split, topic, document, 0


def _drawn(collection: Judged, count: int) -> dict[str, list[str]]:
    """Topic -> documents that nobody judged for it, in any split; the same ones each time."""
    ids = [document.id for document in collection.documents()]
    judged: dict[str, set[str]] = {}
    for qrels in collection.qrels.values():
        for topic, grades in qrels.items():
            judged.setdefault(topic, set()).update(grades)
    for topic, document in collection.never:
        if topic in judged:
            judged[topic].add(document)
    found = {}
    for topic, known in judged.items():
        if len(ids) < count + len(known):
            raise DataError(
                f"has {len(ids)} documents, too few to draw {count} that are not judged",
                where=f"{collection.name}, topic {topic}",
                fix="Give a smaller 'unjudged'.",
            )
        several = random.Random(f"{_SEED}/{topic}").sample(ids, count + len(known))
        found[topic] = [each for each in several if each not in known][:count]
    return found


def _shown(document: Document) -> dict[str, str]:
    """Title and passage; a document that is a title only is its passage."""
    if document.text.strip():
        return {"title": document.title, "passage": document.text}
    return {"title": "", "passage": document.title}
