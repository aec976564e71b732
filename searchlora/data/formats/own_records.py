"""Source rows become records: those that are records already, and those of a public format by a mapping."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.data.formats.sources import split_files
from searchlora.files import read_rows
from searchlora.records import Options, Record, RejectedRow, SourceReport, SourceRow

Found = Iterator[SourceRow | RejectedRow | SourceReport]
Read = Callable[[Path, Options], Found]

#: What `native` reads, for the description of a format.
NATIVE = "records as they are (JSONL, JSON, CSV, TSV, Parquet), or a folder with a file per split"


def native(source: Path, needed: Sequence[str], as_json: Sequence[str] = ()) -> Iterator[SourceRow | RejectedRow]:
    """Records as they are; of a folder with a file per split each gets its split.

    Args:
        needed: Columns that a file must have.
        as_json: Fields that a table cell holds as JSON.
    """
    for path, split in split_files(source):
        for row in read_rows(path, needed):
            yield row if isinstance(row, RejectedRow) else _from_cells(row, split, needed, as_json)


def mapped(read: Read, to_record: Callable[[Mapping[str, Any]], Record]) -> Read:
    """A reader whose rows become records; what it refused and reported stays."""

    def rows(source: Path, options: Options) -> Found:
        for row in read(source, options):
            yield SourceRow(to_record(row.data), row.where) if isinstance(row, SourceRow) else row

    return rows


def _from_cells(
    row: SourceRow, split: str | None, needed: Sequence[str], as_json: Sequence[str]
) -> SourceRow | RejectedRow:
    # An empty cell is how a table leaves out an optional field.
    record = {name: value for name, value in row.data.items() if name in needed or value not in (None, "")}
    for name in as_json:
        if isinstance(record.get(name), str):
            try:
                record[name] = json.loads(record[name])
            except ValueError:
                return RejectedRow(row.where, f"field '{name}': is not JSON", row.data)
    return SourceRow({**record, **({"split": split} if split else {})}, row.where)
