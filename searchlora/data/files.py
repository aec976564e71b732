"""Rows of JSONL, JSON, CSV, TSV and Parquet files, plain or gzipped, read one at a time.

A row that cannot be read is yielded as `RejectedRow`, so that nothing is dropped silently; what makes the whole file
unreadable is a `DataError`. Lines are counted as an editor counts them, the rows of a JSON array or a Parquet file
from 1.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeAlias

from searchlora.data.json_rows import json_lines, json_values
from searchlora.data.meter import open_counted
from searchlora.data.table_rows import delimited_rows, parquet_rows
from searchlora.errors import DataError
from searchlora.records import RejectedRow, SourceRow

Rows: TypeAlias = Iterator[SourceRow | RejectedRow]

EXTENSIONS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


def read_rows(path: Path, required: Sequence[str] = ()) -> Rows:
    """Read a file by its extension.

    Args:
        path: `.jsonl`, `.ndjson`, `.json` (an array, or objects one after another), `.csv` (quoted as in RFC 4180),
            `.tsv` (never quoted), `.parquet`; each also with `.gz` behind it. Text is UTF-8.
        required: Columns that must be there. Missing in a table's header or a Parquet schema they are an error of
            the file, missing in a JSON object an error of that row.

    Yields:
        `SourceRow` with a mapping, or `RejectedRow`, in file order.

    Raises:
        DataError: when the file is missing, empty, of an unknown kind, not UTF-8 at its beginning, cut off, or lacks
            a required column. Raised here and not at the first row, as far as it can be known without reading.
    """
    reader = _reader_for(path)
    check_file(path)
    return _guarded(path, reader, tuple(required))


def check_file(path: Path) -> None:
    """Raise `DataError` unless `path` is a file that can be opened and holds something."""
    if path.is_dir():
        raise DataError("is a folder where a file is needed", where=str(path), fix="Name the file in it.")
    if not path.exists():
        raise DataError("there is no such file", where=str(path), fix="Check the path.")
    if path.stat().st_size == 0:
        raise DataError("the file is empty", where=str(path), fix="Check the download or export that wrote it.")


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked where its name ends in `.gz`; what goes wrong while reading is a `DataError`."""
    try:
        with open_counted(path) as raw:
            if path.suffix == ".gz":
                with gzip.open(raw) as unpacked:
                    yield unpacked  # type: ignore[misc]  # GzipFile is an IO[bytes] in all but its declared base
            else:
                yield raw
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"is not a sound gzip file ({error})", where=str(path), fix="Fetch it again.") from None
    except EOFError:
        raise DataError("the gzip file is cut off", where=str(path), fix="Fetch it again.") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"is not UTF-8 text ({error.reason})", where=str(path), fix="Convert it, for example with iconv."
        ) from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", where=str(path)) from None


def _reader_for(path: Path) -> Callable[[IO[bytes], str, Sequence[str]], Rows]:
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson")):
        return json_lines
    if name.endswith(".json"):
        return json_values
    if name.endswith(".csv"):
        return lambda file, label, required: delimited_rows(file, label, required, ",")
    if name.endswith(".tsv"):
        return lambda file, label, required: delimited_rows(file, label, required, "\t")
    if name.endswith(".parquet"):
        return parquet_rows
    raise DataError(
        "the kind of file is not known from its name",
        where=str(path),
        fix=f"Known endings: {', '.join(EXTENSIONS)}, each also with .gz.",
    )


def _guarded(path: Path, reader: Callable[[IO[bytes], str, Sequence[str]], Rows], required: Sequence[str]) -> Rows:
    with opened(path) as file:
        yield from reader(file, path.name, required)
