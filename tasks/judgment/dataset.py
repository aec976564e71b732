"""Source formats of the judgment task: what each public format calls a thing -> what a record calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from searchlora.data.files import Rows, read_rows
from searchlora.data.formats import trecdl
from searchlora.data.formats.sources import split_files
from searchlora.data.text import normalised
from searchlora.errors import UsageError
from searchlora.records import Format, Options, Record, RejectedRow, SourceReport, SourceRow
from searchlora.tasks.judgment.guideline import OPTIONS, Guideline, guideline_of

SHOP_RECORDS = "judgment.jsonl"
NEEDED = ("id", "group", "query", "passage", "grade")
UNJUDGED = {"unjudged": "take so many passages of each query that nobody graded as grade 0 (default 0)"}

_Read = Callable[[Path, Options], Iterator[SourceRow | RejectedRow | SourceReport]]


def _native(source: Path, options: Options) -> Rows:
    del options
    for path, split in split_files(source):
        for row in read_rows(path, NEEDED):
            yield row if isinstance(row, RejectedRow) else _from_cells(row, split)


def _from_cells(row: SourceRow, split: str | None) -> SourceRow:
    # An empty cell is how a table leaves out an optional field, and a cell has no whole numbers.
    record = {name: value for name, value in row.data.items() if name in NEEDED or value not in (None, "")}
    if isinstance(record["grade"], str) and record["grade"].isdigit():
        record["grade"] = int(record["grade"])
    return SourceRow({**record, **({"split": split} if split else {})}, row.where)


def _pairs(read: Callable[[Path, Options], Rows]) -> _Read:
    """A reader of graded pairs (`topic`, `query`, `document`, `passage`, `title`, `grade`, `split`) as one of records."""

    def rows(source: Path, options: Options) -> Rows:
        for row in read(source, options):
            yield SourceRow(_record(row.data), row.where) if isinstance(row, SourceRow) else row

    return rows


def _record(data: Mapping[str, Any]) -> Record:
    optional = {name: data[name] for name in ("title", "split") if data.get(name)}
    return {
        "id": f"{data['topic']} {data['document']}",
        "group": normalised(data["query"]),
        "query": data["query"],
        "passage": data["passage"],
        "grade": data["grade"],
        **optional,
    }


def _graded(format: Format) -> Format:
    """The format with the options of the task's settings: each grade becomes one of the scale asked for."""

    def read(source: Path, options: Options) -> Iterator[SourceRow | RejectedRow | SourceReport]:
        guideline = guideline_of(options)
        own = {key: value for key, value in options.items() if key not in OPTIONS}
        for row in format.read(source, own):
            yield _folded(row, guideline) if isinstance(row, SourceRow) else row

    return replace(format, read=read, options={**(format.options or {}), **OPTIONS})


def _folded(row: SourceRow, guideline: Guideline) -> SourceRow | RejectedRow:
    grade = row.data.get("grade")
    if not isinstance(grade, int):
        return row  # the schema says what is wrong with it
    folded = guideline.fold(grade)
    if folded is None:
        known = ", ".join(str(one) for each in guideline.grades for one in each.covers)
        return RejectedRow(row.where, f"field 'grade': {grade} is none of the guideline's ({known})", row.data)
    return SourceRow({**row.data, "grade": folded}, row.where)


def _count(options: Options, name: str) -> int:
    given = options.get(name, "0")
    if not given.isdigit():
        raise UsageError(f"{name} is a number, not '{given}'", where="--option")
    return int(given)


FORMATS: Mapping[str, Format] = {
    format.name: _graded(format)
    for format in (
        Format(
            name="native",
            description="records as they are (JSONL, JSON, CSV, TSV, Parquet), or a folder with a file per split",
            read=_native,
        ),
        Format(
            name="shop",
            description="a folder written by the made shop; best with guideline=products",
            read=lambda source, options: _native(source / SHOP_RECORDS, options),
        ),
        Format(
            name="trecdl",
            description="TREC Deep Learning: a folder with the JSON of retrieved passages and the qrels",
            read=_pairs(lambda source, options: trecdl.read(source, unjudged=_count(options, "unjudged"))),
            options=UNJUDGED,
        ),
    )
}
