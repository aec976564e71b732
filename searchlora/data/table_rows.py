"""Rows out of CSV, TSV and Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import IO, Any

from searchlora.errors import DataError
from searchlora.records import RejectedRow, SourceRow

BATCH = 1024  # rows of a Parquet file in memory at once

#: A field may be as long as it likes: after one that is refused for its length, its tail would be read as rows.
csv.field_size_limit(2**31 - 1)


def delimited_rows(
    file: IO[bytes], name: str, required: Sequence[str], delimiter: str
) -> Iterator[SourceRow | RejectedRow]:
    """Rows below a header; a row that has more or fewer fields than the header, or is not UTF-8, is rejected.

    Raises:
        DataError: for a header that is not UTF-8, names a column twice, or lacks a required one.
    """
    # Bytes that are not UTF-8 come through as surrogates, so that one bad row does not end the reading.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    if delimiter == "\t":
        reader = csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
    header = _header(reader, name, required)
    while True:
        where = f"{name}, line {reader.line_num + 1}"
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield RejectedRow(where, f"cannot be read as a row ({error})")
            continue
        if fields:
            yield _row(header, fields, where)


def parquet_rows(file: IO[bytes], name: str, required: Sequence[str]) -> Iterator[SourceRow | RejectedRow]:
    """Rows of a Parquet file, read in batches.

    Raises:
        DataError: for a file that is not Parquet or lacks a required column.
    """
    import pyarrow
    import pyarrow.parquet

    # Parquet is read from its end, which a gzip stream does not allow without unpacking it.
    source = file if isinstance(file, io.BufferedReader) else io.BytesIO(file.read())
    try:
        table = pyarrow.parquet.ParquetFile(source)
        _check_columns(table.schema_arrow.names, name, required)
        number = 0
        for batch in table.iter_batches(batch_size=BATCH):
            for row in batch.to_pylist():
                number += 1
                present = {key: _present(value) for key, value in row.items() if value is not None or key in required}
                yield SourceRow(present, f"{name}, row {number}")
    except pyarrow.ArrowException as error:
        raise DataError(f"is not a sound Parquet file ({error})", where=name, fix="Fetch or export it again.") from None


def _present(value: Any) -> Any:
    """Without the fields that Parquet fills with null because other rows have them."""
    if isinstance(value, dict):
        return {key: _present(each) for key, each in value.items() if each is not None}
    return [_present(each) for each in value] if isinstance(value, list) else value


def _header(reader: Iterator[list[str]], name: str, required: Sequence[str]) -> list[str]:
    try:
        header = [column.strip() for column in next(reader, [])]
    except csv.Error as error:
        raise DataError(f"the header cannot be read ({error})", where=f"{name}, line 1") from None
    if _is_broken(header):
        raise DataError(
            "the header is not UTF-8 text", where=f"{name}, line 1", fix="Convert the file, for example with iconv."
        )
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise DataError(f"column '{twice[0]}' stands twice in the header", where=f"{name}, line 1")
    _check_columns(header, f"{name}, line 1", required)
    return header


def _check_columns(columns: Sequence[str], where: str, required: Sequence[str]) -> None:
    missing = [column for column in required if column not in columns]
    if missing:
        raise DataError(
            f"there is no column '{missing[0]}'; the columns are {', '.join(columns) or 'none'}",
            where=where,
            fix="Rename the column, say what it is called (`--option`, see `searchlora data formats`), or choose "
            "another format.",
        )


def _row(header: Sequence[str], fields: Sequence[str], where: str) -> SourceRow | RejectedRow:
    if _is_broken(fields):
        readable = [field.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for field in fields]
        return RejectedRow(where, "is not UTF-8 text", readable)
    if len(fields) != len(header):
        return RejectedRow(where, f"has {len(fields)} fields where the header has {len(header)}", list(fields))
    return SourceRow(dict(zip(header, fields, strict=True)), where)


def _is_broken(fields: Sequence[str]) -> bool:
    return any("\udc80" <= character <= "\udcff" for field in fields if not field.isascii() for character in field)
