"""Source formats of the rewriting task: what each public format calls a thing -> what a record calls it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.data.collection import CORPUS_FILE, QRELS_FILE, read_documents, read_judgments
from searchlora.data.files import Rows, read_rows
from searchlora.data.formats import canard
from searchlora.data.formats.sources import split_files
from searchlora.data.text import normalised
from searchlora.records import Collection, Format, Options, Record, RejectedRow, SourceReport, SourceRow

SHOP_RECORDS = "rewriting.jsonl"
VOCABULARY = "vocabulary.json"

#: Fields that a table cell holds as JSON.
NOT_TEXT = ("history", "protected", "turn", "needs_rewrite")


def _native(source: Path, options: Options) -> Rows:
    del options
    for path, split in split_files(source):
        for row in read_rows(path, ("id", "group", "query", "rewrite")):
            yield row if isinstance(row, RejectedRow) else _from_cells(row, split)


def _from_cells(row: SourceRow, split: str | None) -> SourceRow | RejectedRow:
    record = {name: value for name, value in row.data.items() if value is not None and value != ""}
    for name in NOT_TEXT:
        if isinstance(record.get(name), str):
            try:
                record[name] = json.loads(record[name])
            except ValueError:
                return RejectedRow(row.where, f"field '{name}': is not JSON", row.data)
    return SourceRow({**record, **({"split": split} if split else {})}, row.where)


def _canard(data: Mapping[str, Any]) -> Record:
    return _record(
        id=canard.question_id(data["dialogue"], data["number"]),
        group=data["article"],
        query=data["question"],
        history=_turns(data["turns"]),
        rewrite=data["rewrite"],
        turn=data["number"],
        split=data["split"],
    )


def _record(*, query: str, rewrite: str, split: str | None = None, **rest: Any) -> Record:
    record = {**rest, "query": query, "rewrite": rewrite, "needs_rewrite": normalised(query) != normalised(rewrite)}
    return {**record, "split": split} if split is not None else record


def _turns(texts: Sequence[str]) -> list[dict[str, str]]:
    """Texts of user and assistant in turn; an empty one (no answer) is left out."""
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "text": text} for number, text in enumerate(texts) if text.strip()]


def _mapped(
    read: Callable[[Path, Options], Iterator[SourceRow | RejectedRow | SourceReport]],
    to_record: Callable[[Mapping[str, Any]], Record],
) -> Callable[[Path, Options], Iterator[SourceRow | RejectedRow | SourceReport]]:
    def rows(source: Path, options: Options) -> Iterator[SourceRow | RejectedRow | SourceReport]:
        for row in read(source, options):
            yield SourceRow(to_record(row.data), row.where) if isinstance(row, SourceRow) else row

    return rows


def _shop_collection(source: Path, options: Options) -> Collection:
    del options
    return Collection(read_documents(source / CORPUS_FILE), read_judgments(source / QRELS_FILE))


FORMATS: Mapping[str, Format] = {
    format.name: format
    for format in (
        Format(
            name="native",
            description="records as they are (JSONL, JSON, CSV, TSV, Parquet), or a folder with a file per split",
            read=_native,
        ),
        Format(
            name="shop",
            description="a folder written by the made shop",
            read=lambda source, options: _native(source / SHOP_RECORDS, options),
            collection=_shop_collection,
            sidecars=(VOCABULARY,),
        ),
        Format(
            name="canard",
            description="CANARD (train.json, dev.json, test.json); its answers become the collection",
            read=_mapped(lambda source, _: canard.read(source), _canard),
            collection=lambda source, _: canard.collection(source),
            passes=2,
        ),
    )
}
