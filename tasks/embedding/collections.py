"""Where an encoder searches when it is measured: a source's own documents and judgments, or its texts alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from searchlora.data.files import Rows
from searchlora.data.formats.judged import Judged
from searchlora.data.text import fingerprint, normalised
from searchlora.errors import DataError
from searchlora.records import (
    Collection,
    Document,
    Judgment,
    Options,
    Record,
    RejectedRow,
    SourceReport,
    SourceRow,
)

#: The most judged negatives of a query that become training negatives; judged sets may hold hundreds.
NEGATIVES = 5

Found = Iterator[SourceRow | RejectedRow | SourceReport]


def document_id(text: str) -> str:
    """16 hexadecimal digits of the hash of a text, case and punctuation aside."""
    return f"{fingerprint(normalised(text)):016x}"


def own_texts(read: Callable[[Path, Options], Found]) -> Callable[[Path, Options], Collection]:
    """The collection of a format that has none: every text that a record shall find, or shall not; each once.

    The id of a document is `document_id` of its text.
    """

    def collection(source: Path, options: Options) -> Collection:
        return Collection(_documents(read(source, options)), _judgments(read(source, options)))

    return collection


def collection_of(judged: Judged, relevant: int) -> Collection:
    """Documents and judgments of a test collection."""
    return Collection(
        judged.documents(),
        (
            Judgment(topic, document, grade)
            for qrels in judged.qrels.values()
            for topic, grades in qrels.items()
            for document, grade in grades.items()
        ),
        relevant,
    )


def judged_records(judged: Judged, relevant: int) -> Found:
    """A record for each topic with a relevant document; what was judged 0 or less are its negatives.

    Only judged texts are held in memory. Topics with nothing relevant, or with no text of it, are left out; a report at
    the end says how many.

    Raises:
        DataError: when no topic of the judgments has a query.
    """
    texts = _texts(judged)
    if not any(topic in judged.queries for qrels in judged.qrels.values() for topic in qrels):
        raise DataError(
            "no topic of the judgments has a query", where=judged.name, fix="Do topics and qrels belong together?"
        )
    without = 0
    for split, qrels in judged.qrels.items():
        for topic, grades in qrels.items():
            where = f"{judged.name}, topic {topic}"
            if topic not in judged.queries:
                yield RejectedRow(where, "the topic has no query")
                continue
            positives = _distinct(texts, (name for name, grade in grades.items() if grade >= relevant))
            negatives = _distinct(texts, (name for name, grade in grades.items() if grade <= 0))
            if not positives:
                without += 1
                continue
            query = judged.queries[topic]
            record = {"id": topic, "group": normalised(query) or topic, "query": query, "positives": positives}
            if kept := [text for text in negatives if text not in positives][:NEGATIVES]:
                record["negatives"] = kept
            yield SourceRow({**record, "split": split} if split else record, where)
    if without:
        yield SourceReport(("Topics with nothing relevant are left out.",), {"topics without relevant": without})


def _texts(judged: Judged) -> dict[str, str]:
    """Document -> text of those that are judged and not empty."""
    wanted = {name for qrels in judged.qrels.values() for grades in qrels.values() for name in grades}
    found = {each.id: each.searchable for each in judged.documents() if each.id in wanted}
    return {name: text for name, text in found.items() if text.strip()}


def _distinct(texts: dict[str, str], names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts[name] for name in names if name in texts))


def _documents(rows: Rows | Found) -> Iterator[Document]:
    seen: set[str] = set()
    for record in _records(rows):
        for text in (*record.get("positives", ()), *record.get("negatives", ())):
            if (name := document_id(text)) not in seen:
                seen.add(name)
                yield Document(name, text)


def _judgments(rows: Rows | Found) -> Iterator[Judgment]:
    for record in _records(rows):
        positives = dict.fromkeys(map(document_id, record.get("positives", ())))
        for name in positives:
            yield Judgment(str(record["id"]), name, 1)
        for name in dict.fromkeys(map(document_id, record.get("negatives", ()))):
            if name not in positives:
                yield Judgment(str(record["id"]), name, 0)


def _records(rows: Rows | Found) -> Iterator[Record]:
    return (row.data for row in rows if isinstance(row, SourceRow))
