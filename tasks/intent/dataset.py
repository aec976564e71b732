"""Source formats of the intent task: what each public format calls a thing -> what a record calls it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from searchlora.data.files import Rows, read_rows
from searchlora.data.formats import clinc150, labelled
from searchlora.data.formats.sources import split_files
from searchlora.data.text import normalised
from searchlora.records import Format, Options, Record, RejectedRow, SourceReport, SourceRow
from searchlora.tasks.intent.checking import AnswerCheck
from searchlora.tasks.intent.settings import OPTIONS

SHOP_RECORDS = "intent.jsonl"
SHOP_SCHEMA = "intent.schema.json"

NEEDED = ("id", "group", "query")

#: Fields that a table cell holds as JSON.
NOT_TEXT = ("labels", "object")


def _native(source: Path, options: Options) -> Rows:
    del options
    for path, split in split_files(source):
        for row in read_rows(path, NEEDED):
            yield row if isinstance(row, RejectedRow) else _from_cells(row, split)


def _from_cells(row: SourceRow, split: str | None) -> SourceRow | RejectedRow:
    # An empty cell is how a table leaves out an optional field.
    record = {name: value for name, value in row.data.items() if name in NEEDED or value not in (None, "")}
    for name in NOT_TEXT:
        if isinstance(record.get(name), str):
            try:
                record[name] = json.loads(record[name])
            except ValueError:
                return RejectedRow(row.where, f"field '{name}': is not JSON", row.data)
    return SourceRow({**record, **({"split": split} if split else {})}, row.where)


def _labelled(data: Mapping[str, Any]) -> Record:
    """A text with its label; rows of the same text, but for case and punctuation, are one group."""
    text, label = data["text"], data["label"]
    label = str(label).strip() if isinstance(label, str | int) else label
    record = {"id": data["id"], "group": normalised(str(text)), "query": text, "label": label}
    return {**record, "split": data["split"]} if data["split"] is not None else record


def _mapped(
    read: Callable[[Path, Options], Rows], to_record: Callable[[Mapping[str, Any]], Record]
) -> Callable[[Path, Options], Rows]:
    def rows(source: Path, options: Options) -> Rows:
        for row in read(source, options):
            yield SourceRow(to_record(row.data), row.where) if isinstance(row, SourceRow) else row

    return rows


def _shop_options(source: Path) -> Options:
    from searchlora.data.shop.intent_objects import OUT_OF_SCOPE

    return {"schema": str(source / SHOP_SCHEMA), "out_of_scope": OUT_OF_SCOPE}


def _checking(format: Format) -> Format:
    """The format with the task's options; each row is checked against them."""

    def read(source: Path, options: Options) -> Iterator[SourceRow | RejectedRow | SourceReport]:
        check = AnswerCheck.of(options)
        for row in format.read(source, {key: value for key, value in options.items() if key not in OPTIONS}):
            yield check.checked(row) if isinstance(row, SourceRow) else row

    return replace(format, read=read, options={**(format.options or {}), **OPTIONS})


FORMATS: Mapping[str, Format] = {
    format.name: _checking(format)
    for format in (
        Format(
            name="native",
            description="records as they are (JSONL, JSON, CSV, TSV, Parquet), or a folder with a file per split",
            read=_native,
        ),
        Format(
            name="banking77",
            description="BANKING77 (train.csv and test.csv with text,category), or one of the files",
            read=_mapped(lambda source, _: labelled.read_banking77(source), _labelled),
        ),
        Format(
            name="clinc150",
            description="CLINC150 (data_full.json and its kin) with its rows that are out of scope (oos)",
            read=_mapped(lambda source, _: clinc150.read(source), _labelled),
        ),
        Format(
            name="csv",
            description="any two columns, text and label (CSV, TSV, JSONL, JSON, Parquet), or a folder with a file "
            "per split",
            read=_mapped(labelled.read, _labelled),
            options=labelled.COLUMNS,
        ),
        Format(
            name="shop",
            description="a folder written by the made shop",
            read=lambda source, options: _native(source / SHOP_RECORDS, options),
            implied=_shop_options,
        ),
    )
}
