"""Rows of JSON Lines, JSON, CSV, TSV and Parquet files, plain or gzip, one at a time.

A row that cannot be read is yielded as `RejectedRow` with its place, and reading goes on; only a fault that makes the
rest unreadable is a `DataError`. Lines are counted as an editor counts them, the rows of a JSON array or a Parquet
file from 1. Memory is bounded by the longest row (`MAX_LINE`) or a Parquet batch.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeAlias

from searchlora.errors import DataError, MissingColumn, RowError
from searchlora.files.encodings import NOT_UTF8
from searchlora.files.json_text import TOO_DEEP, UnfitText, ValueDecoder, parse_json, value_fault
from searchlora.files.parquet import parquet_values, without_nulls
from searchlora.files.text import (
    MAX_LINE,
    check_file,
    check_is_text,
    open_bytes,
)


@dataclass(frozen=True)
class SourceRow:
    """A row of a source file and its place: "dev.json, row 12".

    Attributes:
        source: Who or what graded it (`eval.judgments.sources.Source`); None: the reader does not know.
    """

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
_CHUNK = 1 << 16  # bytes
_MAX_HEADER = 1 << 16  # bytes, in which the delimiter is looked for
_SPACE = re.compile(r"\s*")

#: What opens or closes a level of JSON, or a string, which may not be read to its end yet.
_NESTING = re.compile(r'[][{}]|"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)

#: The csv module must not refuse long fields itself: it would read the rest of the field as rows.
csv.field_size_limit(2**31 - 1)


def read_rows(path: Path, required: Sequence[str] = ()) -> Rows:
    """Read a file by the extension of its name.

    Args:
        path: `.jsonl`, `.ndjson`, `.json` (an array, or objects one after another), `.csv` (quoted as in RFC 4180),
            `.tsv` (never quoted) or `.parquet`; each also with `.gz`. Text is UTF-8.
        required: Required columns. One that is missing in the header of a table or the schema of a Parquet file is
            an error of the file; one that is missing in a JSON object rejects that row.

    Yields:
        `SourceRow` or `RejectedRow`, in file order.

    Raises:
        DataError: if the file is missing, empty, of an unknown kind, cut off, not UTF-8 in its header, or lacks a
            required column. What can be known without reading is raised by the call, not by the first row.

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
    for number, line in enumerate(iter(partial(file.readline, MAX_LINE), b""), start=1):
        where = f"{label}, line {number}"
        if len(line) >= MAX_LINE and not line.endswith(b"\n"):
            _skip_line(file.readline, b"\n")
            yield RejectedRow(where, f"has more than {MAX_LINE:,} bytes", line[:EXCERPT].decode("utf-8", "replace"))
            continue
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield _json_row(line, where, required)


def json_values(file: IO[bytes], label: str, required: Sequence[str] = ()) -> Rows:
    """The objects of a JSON array, or objects one after another.

    Raises:
        RowError: at the first place that is not JSON, because the end of the row is unknown.
    """
    check_is_text(file, label)
    window = _JsonWindow(file)
    in_array = window.take("[")
    for number in itertools.count(1):
        where = f"{label}, row {number}"
        if in_array and window.take("]"):
            if window.next_character():
                raise _not_json(where, "text follows the end of the array")
            return
        if not window.next_character():
            if in_array:
                raise _not_json(where, "the file ends inside the array")
            return
        row = window.next_value(where)
        yield row if isinstance(row, RejectedRow) else _checked(row, where, required)
        if in_array and not window.take(",") and window.next_character() != "]":
            raise _not_json(where, "there is no comma or ] after it")


def delimited_fields(
    file: IO[bytes], label: str, delimiter: str, *, quoted: bool = True
) -> Iterator[tuple[str, list[str]] | RejectedRow]:
    """The rows of a table as lists of fields, header included, each with its place; blank lines are skipped.

    Args:
        quoted: Fields may be quoted as in RFC 4180; else a quote is a character like any other.
    """
    check_is_text(file, label)
    # Bytes that are not UTF-8 become surrogates, so that one bad row does not end the reading.
    lines = _TableLines(io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline=""))
    if quoted:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
    else:
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    while True:
        where = f"{label}, line {lines.begin_row()}"
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield RejectedRow(where, f"cannot be read as a row ({error})", lines.excerpt())
            lines.resume_after_first()
            continue
        if fields and (fault := _fields_fault(fields)):
            readable = [field.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for field in fields]
            yield RejectedRow(where, fault, readable)
        elif fields:
            yield where, fields


def delimited_rows(
    file: IO[bytes],
    label: str,
    required: Sequence[str],
    delimiter: str,
    *,
    quoted: bool = True,
) -> Rows:
    """Rows below a header; a row with more or fewer fields than the header is rejected.

    Raises:
        DataError: for a header that is not UTF-8, repeats a column, or lacks a required one.
    """
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
    """Rows of a Parquet file, read in batches. Nulls count as missing fields, unless the column is required.

    Args:
        columns: The columns to read; None reads all.

    Raises:
        DataError: if the file is not sound Parquet, lacks a required column, or unpacks to far more than its size.
    """
    rows = parquet_values(file, label, lambda names: _check_columns(names, label, required), columns)
    for number, row in enumerate(rows, start=1):
        where = f"{label}, row {number}"
        if isinstance(row, str):
            yield RejectedRow(where, row)
            continue
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
        return lambda file, label, required: delimited_rows(file, label, required, "\t", quoted=False)
    if name.endswith(".parquet"):
        return parquet_rows
    raise DataError(
        "the kind of file is not known from its name",
        where=str(path),
        fix=f"Known endings: {', '.join(EXTENSIONS)}, each also with .gz.",
    )


def _delimiter(path: Path) -> str:
    """A comma; a semicolon or a tab where only these are in the header, as Excel writes CSV in many languages."""
    with open_bytes(path) as file:
        header = re.sub(rb'"[^"]*"', b"", file.readline(_MAX_HEADER))
    if b"," in header:
        return ","
    return next((delimiter for delimiter in (";", "\t") if delimiter.encode() in header), ",")


def _read(path: Path, reader: Callable[[IO[bytes], str, Sequence[str]], Rows], required: Sequence[str]) -> Rows:
    with open_bytes(path) as file:
        yield from reader(file, path.name, required)


# JSON


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


class _JsonWindow:
    """The part of a JSON text that is in memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._values = ValueDecoder()
        self._buffer = ""
        self._position = 0

    def next_character(self) -> str:
        """The next character that is not white space, which is not read yet; empty at the end of the text."""
        while True:
            self._position = _SPACE.match(self._buffer, self._position).end()  # type: ignore[union-attr]
            if self._position < len(self._buffer) or not self._grow():
                return self._buffer[self._position : self._position + 1]

    def take(self, character: str) -> bool:
        """Move past the next character if it is this one."""
        if self.next_character() != character:
            return False
        self._position += 1
        return True

    def next_value(self, where: str) -> Any:
        """The next value, or a `RejectedRow` for one that is JSON in form only. Raises `RowError`."""
        while True:
            try:
                value, end, fault = self._values.decode(self._buffer, self._position)
            except json.JSONDecodeError as error:
                if len(self._buffer) - self._position > MAX_LINE or not self._grow():
                    raise _not_json(where, error.msg) from None
                continue
            except RecursionError:
                value, end, fault = None, self._end_of_nested(where), TOO_DEEP
            # A number at the end of the buffer may go on in the next chunk.
            if end == len(self._buffer) and self._grow():
                continue
            text = self._buffer[self._position : end][:EXCERPT]
            size, self._position = end - self._position, end
            if size > MAX_LINE:
                return RejectedRow(where, f"has more than {MAX_LINE:,} characters", text)
            return value if fault is None else RejectedRow(where, f"is not JSON ({fault})", text)

    def _end_of_nested(self, where: str) -> int:
        """The end of the array or object that begins here, which is not decoded. Raises `RowError`."""
        while True:
            depth = 0
            for token in _NESTING.finditer(self._buffer, self._position):
                depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
                if not depth:
                    return token.end()
            if len(self._buffer) - self._position > MAX_LINE or not self._grow():
                raise _not_json(where, TOO_DEEP)

    def _grow(self) -> bool:
        """Read at least as much again as is unread; False at the end of the file."""
        unread = self._buffer[self._position :]
        data = self._file.read(max(_CHUNK, len(unread)))
        self._buffer = unread + self._decoder.decode(data, final=not data)
        self._position = 0
        return bool(data)


# Tables


class _TableLines:
    """The lines of a table for `csv.reader`; those of a row that is never closed are read again as rows.

    An unclosed quote would otherwise swallow all rows up to the next quote or the end of the file. Lines that are read
    again are limited by the lines read so far, so that reading stays linear in the size of the file.
    """

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._again: deque[str] = deque()
        self._row: list[str] = []
        self._row_size = 0
        self._line = 0
        self._budget = MAX_LINE

    def __iter__(self) -> _TableLines:
        return self

    def __next__(self) -> str:
        if self._row_size > MAX_LINE:
            raise csv.Error(f"it has more than {MAX_LINE:,} characters")
        if self._again:
            line = self._again.popleft()
        else:
            line = self._text.readline(MAX_LINE)
            self._budget += len(line)
        if not line:
            raise StopIteration
        self._line += 1
        self._row.append(line)
        self._row_size += len(line)
        if len(line) >= MAX_LINE and not line.endswith(("\n", "\r")):
            _skip_line(self._text.readline, ("\n", "\r"))
            raise csv.Error(f"it has more than {MAX_LINE:,} characters")
        return line

    def begin_row(self) -> int:
        """Start a row; the number of its first line."""
        self._row, self._row_size = [], 0
        return self._line + 1

    def excerpt(self) -> str:
        """The beginning of the row."""
        return "".join(self._row)[:EXCERPT].encode("utf-8", "surrogateescape").decode("utf-8", "replace")

    def resume_after_first(self) -> None:
        """Read the lines after the first one of the row again."""
        rest = self._row[1:]
        size = sum(map(len, rest))
        if size <= self._budget:
            self._budget -= size
            self._line -= len(rest)
            self._again.extendleft(reversed(rest))


def _skip_line(readline: Callable[[int], Any], ends: Any) -> None:
    """Read to the end of a line."""
    while (part := readline(MAX_LINE)) and not part.endswith(ends):
        pass


def _fields_fault(fields: Sequence[str]) -> str | None:
    for text in fields:
        if not text.isascii() and any("\udc80" <= character <= "\udcff" for character in text):
            return NOT_UTF8
    return None


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
