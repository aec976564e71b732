"""Rows of JSON Lines, JSON, CSV, TSV and Parquet files, plain or gzip, one at a time.

A row that cannot be read is yielded as `RejectedRow` with its place, and reading goes on; only a fault that makes the
rest unreadable is a `DataError`. Lines are counted as an editor counts them, the rows of a JSON array or a Parquet
file from 1. A JSON array is held in memory as a whole.
"""

from __future__ import annotations

import codecs
import csv
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeAlias

from searchlora.errors import DataError, MissingColumn, RowError
from searchlora.files.json_text import UnfitText, parse_json, parse_json_at, value_fault
from searchlora.files.parquet import parquet_values, without_nulls
from searchlora.files.text import NOT_UTF8, check_file, check_is_text, decoded, open_bytes, read_head


@dataclass(frozen=True)
class SourceRow:
    """A row of a source file and its place: "dev.json, row 12"."""

    data: Mapping[str, Any]
    where: str
    source: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class RejectedRow:
    """A row that a reader or the schema rejected: its place, the reason, and the row as far as it could be read."""

    where: str
    reason: str
    data: Any = None


Rows: TypeAlias = Iterator[SourceRow | RejectedRow]

EXTENSIONS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")

#: Characters of an unreadable row that a `RejectedRow` keeps.
EXCERPT = 200

_COLUMNS_SHOWN = 20
_SPACE = re.compile(r"\s*")

#: The csv module must not refuse long fields itself: it would read the rest of the field as rows.
csv.field_size_limit(2**31 - 1)


def read_rows(path: Path, required: Sequence[str] = ()) -> Rows:
    """Read a file by the extension of its name.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "clicks.jsonl"
        >>> _ = path.write_text('{"query": "tent"}\\n{"query": \\n')
        >>> good, bad = read_rows(path, ["query"])
        >>> good
        SourceRow(data={'query': 'tent'}, where='clicks.jsonl, line 1')
        >>> bad.where, bad.reason
        ('clicks.jsonl, line 2', 'is not JSON (Expecting value: line 2 column 1 (char 11))')
    """
    reader = _reader_for(path)
    check_file(path)
    return _read(path, reader, tuple(required))


def strict(rows: Rows) -> Iterator[SourceRow]:
    """The rows, for callers that cannot go on without one. Raises `DataError` for the first rejected row."""
    for row in rows:
        if isinstance(row, RejectedRow):
            raise DataError(row.reason, where=row.where)
        yield row


def json_lines(file: IO[bytes], label: str, required: Sequence[str] = ()) -> Rows:
    """Rows of a JSON Lines file; blank lines are skipped. `label` names the file in the places of rows."""
    check_is_text(file, label)
    for number, line in enumerate(file, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield _json_row(line, f"{label}, line {number}", required)


def json_values(file: IO[bytes], label: str, required: Sequence[str] = ()) -> Rows:
    """The objects of a JSON array, or objects one after another."""
    check_is_text(file, label)
    text = file.read().decode("utf-8-sig")

    def skip(position: int) -> int:
        return _SPACE.match(text, position).end()  # type: ignore[union-attr]

    position = skip(0)
    in_array = text.startswith("[", position)
    position += in_array
    for number in itertools.count(1):
        where, position = f"{label}, row {number}", skip(position)
        if in_array and text.startswith("]", position):
            if skip(position + 1) < len(text):
                raise _not_json(where, "text follows the end of the array")
            return
        if position == len(text):
            if in_array:
                raise _not_json(where, "the file ends inside the array")
            return
        try:
            row, position = parse_json_at(text, position)
        except ValueError as error:
            raise _not_json(where, getattr(error, "msg", str(error))) from None
        yield _checked(row, where, required)
        position = skip(position)
        if in_array and text.startswith(",", position):
            position += 1
        elif in_array and not text.startswith("]", position):
            raise _not_json(where, "there is no comma or ] after it")


def delimited_fields(
    file: IO[bytes], label: str, delimiter: str, *, quoted: bool = True
) -> Iterator[tuple[str, list[str]] | RejectedRow]:
    """The rows of a table as lists of fields, header included, each with its place; blank lines are skipped."""
    # Bytes that are not UTF-8 become surrogates, so that one bad row does not end the reading.
    text = decoded(file, label, "surrogateescape")
    reader = _Unquoted(text) if not quoted else csv.reader(text, delimiter=delimiter, strict=True)
    while True:
        where = f"{label}, line {reader.line_num + 1}"
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield RejectedRow(where, f"cannot be read as a row ({error})")
            continue
        if any("\udc80" <= character <= "\udcff" for field in fields if not field.isascii() for character in field):
            yield RejectedRow(where, NOT_UTF8, [field.encode("utf-8", "replace").decode() for field in fields])
        elif fields:
            yield where, fields


class _Unquoted:
    """The rows of a TSV without quotes, or with those of pandas: around fields with quotes, which it doubles."""

    def __init__(self, text: Iterable[str]) -> None:
        self._lines = iter(text)
        self.line_num = 0

    def __iter__(self) -> _Unquoted:
        return self

    def __next__(self) -> list[str]:
        line = next(self._lines).rstrip("\r\n")
        self.line_num += 1
        if '""' in line:
            with suppress(csv.Error):  # of a line without quotes of this kind
                return next(csv.reader([line], delimiter="\t", strict=True))
        return line.split("\t") if line else []


def delimited_rows(
    file: IO[bytes],
    label: str,
    required: Sequence[str],
    delimiter: str,
    *,
    quoted: bool = True,
) -> Rows:
    """Rows below a header; a row with more or fewer fields than the header is rejected."""
    rows = delimited_fields(file, label, delimiter, quoted=quoted)
    first = next(rows, (f"{label}, line 1", []))
    if not isinstance(first, RejectedRow) and first[1] == ["sep=", ""]:  # Excel's note about the delimiter
        first = next(rows, (f"{label}, line 2", []))
    if isinstance(first, RejectedRow):
        raise DataError(f"the header {first.reason}", where=first.where, fix="Mend or convert the file.")
    where, header = first[0], [column.strip() for column in first[1]]
    named = [place for place, column in enumerate(header) if column]  # spreadsheets leave columns without a name
    repeated = sorted(column for column, count in Counter(header).items() if column and count > 1)
    if repeated:
        raise DataError(f"column '{repeated[0]}' occurs twice in the header", where=where)
    _check_columns(header, where, required)
    for row in rows:
        if isinstance(row, RejectedRow):
            yield row
        elif len(row[1]) != len(header):
            yield RejectedRow(row[0], f"has {len(row[1])} fields where the header has {len(header)}", row[1])
        else:
            yield SourceRow({header[place]: row[1][place] for place in named}, row[0])


def parquet_rows(
    file: IO[bytes], label: str, required: Sequence[str] = (), columns: Sequence[str] | None = None
) -> Rows:
    """Rows of a Parquet file, read in batches. Nulls count as missing fields, unless the column is required."""
    rows = parquet_values(file, label, lambda names: _check_columns(names, label, required), columns)
    for number, row in enumerate(rows, start=1):
        where = f"{label}, row {number}"
        present = {key: without_nulls(cell) for key, cell in row.items() if cell is not None or key in required}
        fault = value_fault(present, allow_nul=True)
        yield RejectedRow(where, fault, repr(present)[:EXCERPT]) if fault else SourceRow(present, where)


def _reader_for(path: Path) -> Callable[[IO[bytes], str, Sequence[str]], Rows]:
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson")):
        return json_lines
    if name.endswith(".json"):
        return json_values
    if name.endswith(".csv"):
        return lambda file, label, required: delimited_rows(file, label, required, _delimiter(path))
    if name.endswith(".tsv"):
        return lambda file, label, required: delimited_rows(file, label, required, "\t", quoted=_is_quoted(path))
    if name.endswith(".parquet"):
        return parquet_rows
    raise DataError(
        "the kind of file is not known from its name",
        where=str(path),
        fix=f"Known endings: {', '.join(EXTENSIONS)}, each also with .gz.",
    )


def _delimiter(path: Path) -> str:
    """A comma; a semicolon or a tab where only these are in the header, as Excel writes CSV in many languages."""
    header = re.sub(r'"[^"]*"', "", read_head(path).line)
    return next((delimiter for delimiter in (",", ";", "\t") if delimiter in header), ",")


def _is_quoted(path: Path) -> bool:
    """Whether the header of a TSV is quoted, and so every field."""
    with open_bytes(path) as file:
        return file.read(1) == b'"'


def _read(path: Path, reader: Callable[[IO[bytes], str, Sequence[str]], Rows], required: Sequence[str]) -> Rows:
    with open_bytes(path) as file:
        yield from reader(file, path.name, required)


def _json_row(line: bytes, where: str, required: Sequence[str]) -> SourceRow | RejectedRow:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return RejectedRow(where, f"{NOT_UTF8} ({error.reason})", line[:EXCERPT].decode("utf-8", "replace"))
    try:
        value = parse_json(text)
    except ValueError as error:
        data = error.value if isinstance(error, UnfitText) else text[:EXCERPT]
        return RejectedRow(where, f"is not JSON ({error})", data)
    return _checked(value, where, required)


def _checked(value: Any, where: str, required: Sequence[str]) -> SourceRow | RejectedRow:
    if not isinstance(value, dict):
        return RejectedRow(where, "is not a JSON object", value)
    missing = [column for column in required if column not in value]
    if missing:
        return RejectedRow(where, f"field '{missing[0]}' is missing", value)
    return SourceRow(value, where)


def _not_json(where: str, reason: str) -> RowError:
    return RowError(f"is not JSON ({reason})", where=where, fix="Mend the file, or convert it to JSON Lines.")


def _check_columns(columns: Sequence[str], where: str, required: Sequence[str]) -> None:
    missing = [column for column in required if column not in columns]
    if missing:
        listed = (", ".join(columns[:_COLUMNS_SHOWN]) or "none")[:EXCERPT]
        more = len(columns) - _COLUMNS_SHOWN
        raise MissingColumn(
            f"there is no column '{missing[0]}'; the columns are {listed}" + (f" and {more} more" if more > 0 else ""),
            where=where,
            fix="The file needs this name in its header, or as a key.",
        )
