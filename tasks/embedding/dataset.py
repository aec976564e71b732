"""Source formats of the embedding task: what each public format calls a thing -> what a record calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from searchlora.data.files import Rows
from searchlora.data.formats import squad
from searchlora.data.text import fingerprint, normalised
from searchlora.errors import DataError
from searchlora.records import Collection, Document, Format, Judgment, Options, Record, RejectedRow, SourceRow

Read = Callable[[Path, Options], Rows]


def check_kind(records: Iterable[Record]) -> None:
    """Raise `DataError` where some records have a label and others what they shall find."""
    kinds = {"label" in record for record in records}
    if len(kinds) > 1:
        raise DataError(
            "some records have a label and others texts to find", fix="Build two datasets of them, and two adapters."
        )


def own_texts(read: Read) -> Callable[[Path, Options], Collection]:
    """The collection of a format that has none: every text that a record shall find, or shall not; each once.

    The id of a document is the hash of its normalised text.
    """

    def collection(source: Path, options: Options) -> Collection:
        return Collection(_documents(read(source, options)), _judgments(read(source, options)))

    return collection


def document_id(text: str) -> str:
    """16 hexadecimal digits of the hash of a text, case and punctuation aside."""
    return f"{fingerprint(normalised(text)):016x}"


def _documents(rows: Rows) -> Iterator[Document]:
    seen: set[str] = set()
    for record in _records(rows):
        for text in (*record.get("positives", ()), *record.get("negatives", ())):
            if (name := document_id(text)) not in seen:
                seen.add(name)
                yield Document(name, text)


def _judgments(rows: Rows) -> Iterator[Judgment]:
    for record in _records(rows):
        positives = dict.fromkeys(map(document_id, record.get("positives", ())))
        for name in positives:
            yield Judgment(str(record["id"]), name, 1)
        for name in dict.fromkeys(map(document_id, record.get("negatives", ()))):
            if name not in positives:
                yield Judgment(str(record["id"]), name, 0)


def _records(rows: Rows) -> Iterator[Record]:
    return (row.data for row in rows if isinstance(row, SourceRow))


def _squad(source: Path, options: Options) -> Rows:
    del options
    for row in squad.read(source):
        if isinstance(row, SourceRow) and not row.data["impossible"]:
            data = row.data
            yield _found(row, data["id"], data["article"], data["question"], [data["context"]])
        elif isinstance(row, RejectedRow):
            yield row


def _found(row: SourceRow, id_: Any, group: Any, query: Any, positives: list[str], **more: Any) -> SourceRow:
    record = {"id": str(id_), "group": str(group), "query": query, "positives": positives, **more}
    split = row.data.get("split")
    return SourceRow({**record, "split": split} if split else record, row.where)


FORMATS: Mapping[str, Format] = {
    format.name: format
    for format in (
        Format(
            name="squad",
            description="SQuAD 1.1 or 2.0: a question finds its paragraph; split by article",
            read=_squad,
            collection=own_texts(_squad),
        ),
    )
}
