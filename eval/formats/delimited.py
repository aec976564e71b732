"""Tables as text: comma- or tab-separated, quoted where needed as in RFC 4180."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from searchlora.errors import DataError
from searchlora.eval.files import atomic_text, opened_text


def delimited_lines(path: Path, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """The rows of a file that are not blank, the header among them, each with the place where it begins.

    Raises:
        DataError: naming the line that cannot be read as a row.
    """
    with opened_text(path, newline="") as text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        while True:
            where = f"{path}, line {reader.line_num + 1}"
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise DataError(f"cannot be read as a row ({error})", where=where) from None
            if fields:
                yield where, fields


def delimited_rows(path: Path, delimiter: str, required: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows below a header as column -> field, each with its place.

    Raises:
        DataError: for a header that lacks a required column or has one twice, or a row of another length.
    """
    lines = delimited_lines(path, delimiter)
    where, header = next(lines, (f"{path}, line 1", []))
    for column in required:
        if header.count(column) != 1:
            raise DataError(
                f"there is no column '{column}'" if column not in header else f"column '{column}' stands twice",
                where=where,
                fix=f"The header has {', '.join(required)}.",
            )
    if len(set(header)) != len(header):
        raise DataError("a column stands twice in the header", where=where)
    for where, fields in lines:
        if len(fields) != len(header):
            raise DataError(f"has {len(fields)} fields where the header has {len(header)}", where=where)
        yield where, dict(zip(header, fields, strict=True))


def write_delimited(path: Path, rows: Iterable[Sequence[object]], delimiter: str) -> None:
    """Write rows, the header first, at once or not at all.

    Lines end in CRLF, as RFC 4180 says, so that a line break within a field is seen to need quotes.
    """
    with atomic_text(path) as out:
        csv.writer(out, delimiter=delimiter, lineterminator="\r\n").writerows(rows)


def first_fields(line: str, delimiter: str) -> list[str]:
    """The fields of one line; none where it cannot be read."""
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []
