"""Shared parts of the format readers: files per split, native records, and ids of rows without one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from searchlora.data.splits import SPLIT_NAMES, SPLITS
from searchlora.errors import DataError
from searchlora.eval.text_identity import fingerprint, normalised
from searchlora.files import EXTENSIONS, parse_json, read_rows
from searchlora.records import Format, Option, Options, Record, RejectedRow, SourceReport, SourceRow


def split_files(source: Path) -> Iterator[tuple[Path, str | None]]:
    """The files of a source, each with its official split.

    A single file has none. In a folder, the files with a split in their name ("train.json", "qrecc_test.json.gz", dev
    for validation) are used, in the order train, validation, test.

    Raises:
        DataError: for a folder without such a file.
    """
    if not source.is_dir():
        yield source, None
        return
    files = sorted(
        (SPLITS.index(split), path, split) for path in source.iterdir() if (split := _split_of(path)) is not None
    )
    if not files:
        raise DataError(
            "no file in the folder has train, dev or test in its name", where=str(source), fix="Name the file itself."
        )
    for _, path, split in files:
        yield path, split


def _split_of(path: Path) -> str | None:
    name = path.name.lower()
    if not name.removesuffix(".gz").endswith(EXTENSIONS):
        return None
    named = {SPLIT_NAMES[word] for word in re.split(r"[\W_]+", name) if word in SPLIT_NAMES}
    return named.pop() if len(named) == 1 else None


FormatRows = Iterator[SourceRow | RejectedRow | SourceReport]
FormatReader = Callable[[Path, Options], FormatRows]

#: Description of the sources of `native`.
NATIVE = "native records (JSONL, JSON, CSV, TSV, Parquet), or a folder with a file per split"


def native(source: Path, required: Sequence[str], as_json: Sequence[str] = ()) -> Iterator[SourceRow | RejectedRow]:
    """Rows that are records of the task already; in a folder with a file per split, each gets its split.

    Args:
        required: Required columns of a file.
        as_json: Fields that a table cell holds as JSON.
    """
    for path, split in split_files(source):
        for row in read_rows(path, required):
            yield row if isinstance(row, RejectedRow) else _from_cells(row, split, required, as_json)


def mapped(read: FormatReader, to_record: Callable[[Mapping[str, Any]], Record]) -> FormatReader:
    """A reader whose rows are converted to records; rejected rows and reports pass through."""

    def rows(source: Path, options: Options) -> FormatRows:
        for row in read(source, options):
            yield SourceRow(to_record(row.data), row.where) if isinstance(row, SourceRow) else row

    return rows


def with_options(
    format: Format,
    options: Mapping[str, Option],
    converter: Callable[[Options], Callable[[SourceRow], SourceRow | RejectedRow]],
) -> Format:
    """A format with further options, by which every row that it reads is checked or changed.

    Args:
        format: The format to extend.
        options: Each further option by its name; they are not passed to the format's reader.
        converter: Returns a function for rows from the given options. It may raise for unusable options.
    """

    def read(source: Path, values: Options) -> FormatRows:
        convert = converter(values)
        for row in format.read(source, {key: value for key, value in values.items() if key not in options}):
            yield convert(row) if isinstance(row, SourceRow) else row

    return replace(format, read=read, options={**format.options, **options})


def _from_cells(
    row: SourceRow, split: str | None, required: Sequence[str], as_json: Sequence[str]
) -> SourceRow | RejectedRow:
    # A table leaves out an optional field by an empty cell.
    record = {name: value for name, value in row.data.items() if name in required or value not in (None, "")}
    for name in as_json:
        if isinstance(record.get(name), str):
            try:
                record[name] = parse_json(record[name])
            except ValueError:
                return RejectedRow(row.where, f"field '{name}': is not JSON", row.data)
    return SourceRow({**record, **({"split": split} if split else {})}, row.where)


def pair_id(query: str, rewrite: str | None = None) -> str:
    """The id of a query, or of a query with one of its rewrites.

    It is 16 hexadecimal digits of BLAKE2b (8 bytes) over the UTF-8 of the query as `normalised` by
    `searchlora.eval.text_identity`; with a rewrite, over normalised query, line feed, normalised rewrite. So the writer
    of judgments can compute it in advance.

    Examples:
        >>> pair_id("Red Shoes!") == pair_id("red shoes")
        True
    """
    text = normalised(query)
    return _hash(text if rewrite is None else f"{text}\n{normalised(rewrite)}")


class PairIds:
    """Assigns a distinct id to each row of a source; two integers per row stay in memory."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def assign(self, query: str, rewrite: str) -> str:
        """`pair_id(query)` for the first row with this query, `pair_id(query, rewrite)` for a further rewrite of it.

        A repeated row gets a hash that includes its number, from 2.
        """
        if self._first(pair_id(query)):
            return pair_id(query)
        both = pair_id(query, rewrite)
        if self._first(both):
            return both
        while not self._first(numbered := _hash(f"{both}\n{self._seen[fingerprint(both)]}")):
            self._first(both)
        return numbered

    def _first(self, name: str) -> bool:
        key = fingerprint(name)
        self._seen[key] = self._seen.get(key, 0) + 1
        return self._seen[key] == 1


def _hash(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
