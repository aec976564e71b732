"""Shared parts of the format readers: files per split, native records, and ids of rows without one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from searchlora.data.splits import SPLIT_NAMES, SPLITS
from searchlora.errors import DataError, MissingColumn, UsageError
from searchlora.eval.judgments.card import has_card, is_sidecar, source_of
from searchlora.eval.judgments.sources import Source
from searchlora.eval.text_identity import fingerprint, normalised
from searchlora.files import EXTENSIONS, FieldMap, Rows, as_text, parse_field_map, parse_json, read_rows
from searchlora.files import mapped as mapped_row
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
    if is_sidecar(path):
        return None
    if not name.removesuffix(".gz").endswith(EXTENSIONS):
        return None
    named = {SPLIT_NAMES[word] for word in re.split(r"[\W_]+", name) if word in SPLIT_NAMES}
    return named.pop() if len(named) == 1 else None


def plain_or_packed(path: Path) -> Path:
    """The file, or the one with `.gz` after its name where it is there."""
    packed = path.with_name(f"{path.name}.gz")
    return packed if packed.exists() else path


def source_of_rows(path: Path) -> Source | None:
    """Who or what graded the rows of a file, from the card beside it; None without a card. Raises `DataError`."""
    return source_of(path) if has_card(path) else None


FormatRows = Iterator[SourceRow | RejectedRow | SourceReport]
FormatReader = Callable[[Path, Options], FormatRows]


def field_map(options: Options, columns: Mapping[str, Option]) -> FieldMap:
    """Field -> the columns that hold it, from the options that name columns.

    Examples:
        >>> columns = {"query": Option("the query"), "passage": Option("the passage")}
        >>> field_map({"query": "q", "passage": "title,text", "limit": "3"}, columns)
        {'query': ('q',), 'passage': ('title', 'text')}
    """
    return parse_field_map([f"{name}={options[name]}" for name in columns if options.get(name)])


def read_table(path: Path, fields: FieldMap, required: Sequence[str], texts: Sequence[str] = ()) -> Rows:
    """The rows of a file with each field of the map under its own name.

    Args:
        fields: Field -> its columns. A single column must be in every row; of several, in some row.
        required: Fields that every row has, from the map or under their own name.
        texts: Fields that must be text, for readers that compare or hash them before the record is validated.

    Raises:
        DataError: as `read_rows`; also if no row has one of the columns, or the file was changed since its card of
            judgments was written.
    """
    source = source_of_rows(path)
    single = [columns[0] for columns in fields.values() if len(columns) == 1]
    unseen = {column for columns in fields.values() if len(columns) > 1 for column in columns}
    for row in rows_with_columns(path, [*(name for name in required if name not in fields), *single]):
        if isinstance(row, RejectedRow):
            yield row
            continue
        unseen -= row.data.keys()
        data = mapped_row(row.data, fields) if fields else row.data
        missing = next((f"field '{name}' is missing" for name in required if name not in data), None)
        fault = missing or no_text(data, texts)
        yield SourceRow(data, row.where, source) if fault is None else RejectedRow(row.where, fault, row.data)
    if unseen:
        raise DataError(f"no row has the column '{min(unseen)}', which --map names", where=path.name)


def read_tables(source: Path, fields: FieldMap, required: Sequence[str], texts: Sequence[str] = ()) -> Rows:
    """The rows of a file, or of a folder with a file per split, as `read_table`; `split` is the file's, or None."""
    for path, split in split_files(source):
        for row in read_table(path, fields, required, texts):
            yield row if isinstance(row, RejectedRow) else replace(row, data={**row.data, "split": split})


def no_text(data: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The fault of the first of these fields that is not text, or None."""
    for name in names:
        if not isinstance(value := data.get(name), str):
            shown = "null" if value is None else repr(value)
            return f"field '{name}': {shown[:_SHOWN]} is not text"
    return None


def whole_number(options: Options, name: str, default: int, minimum: int = 0) -> int:
    """The value of an option that is a whole number. Raises `UsageError` for another value.

    Examples:
        >>> whole_number({"depth": "12"}, "depth", 10)
        12
        >>> whole_number({"depth": "²"}, "depth", 10, minimum=1)
        Traceback (most recent call last):
        searchlora.errors.UsageError: --option depth: '²' is not a whole number of at least 1.
    """
    value = options.get(name, str(default))
    # `str.isdigit` also accepts "²", which `int` does not; converting very many digits takes quadratic time.
    if not (value.isascii() and value.isdecimal() and len(value) < 20 and int(value) >= minimum):
        bound = f" of at least {minimum}" if minimum else ""
        raise UsageError(f"'{value[:60]}' is not a whole number{bound}", where=f"--option {name}")
    return int(value)


def number(options: Options, name: str, default: float, low: float, high: float) -> float:
    """The value of an option that is a number from `low` to `high`. Raises `UsageError` for another value."""
    value = options.get(name, str(default))
    try:
        if low <= float(value) <= high:
            return float(value)
    except ValueError:
        pass
    raise UsageError(f"'{value[:60]}' is not a number from {low:g} to {high:g}", where=f"--option {name}")


def yes_or_no(options: Options, name: str, default: str) -> bool:
    """The value of an option that is yes or no. Raises `UsageError` for another value."""
    value = options.get(name, default)
    if value not in ("yes", "no"):
        raise UsageError(f"'{value}' is neither yes nor no", where=f"--option {name}")
    return value == "yes"


def as_word(value: Any) -> Any:
    """An id or group: a number as text. Others are left as they are, so that the record schema rejects them."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def rows_with_columns(path: Path, columns: Sequence[str]) -> Rows:
    """`read_rows` for `data build`, whose error for a missing column names `--map`."""
    try:
        yield from read_rows(path, columns)
    except MissingColumn as error:
        fix = "Say which column holds a field, as --map FIELD=COLUMN."
        raise MissingColumn(error.what, where=error.where, fix=fix) from None


#: Description of the sources of `native`.
NATIVE = "native records (JSONL, JSON, CSV, TSV, Parquet), or a folder with a file per split"

_SHOWN = 60  # characters of a value in a message

#: Native fields that a file may leave out as a whole.
_DERIVED = ("id", "group")


def native_columns(*fields: str) -> Mapping[str, Option]:
    """The options of `native`: each field of a record may be read from other columns."""
    defaults = {
        "id": "id if present, else the number of the row",
        "group": "group if present, else the normalised first turn, or text",
    }
    return {name: Option(f"the field {name} of the record", "columns", defaults.get(name, name)) for name in fields}


def native(
    source: Path, options: Options, required: Sequence[str], as_json: Sequence[str] = ()
) -> Iterator[SourceRow | RejectedRow]:
    """Rows that are records of the task already; in a folder with a file per split, each gets its split.

    A file whose first row has no id gets ids by the number of the row. Without a group, the rows of a conversation form
    one, which are those with the same first turn; of the others, rows with one text (the first required field beside
    the two, such as the query).

    Args:
        options: Field -> its columns, if different.
        required: Required fields of a record; `id` and `group` are derived where the file does not have them.
        as_json: Fields that a table cell holds as JSON.
    """
    fields = field_map(options, {name: Option("") for name in options})
    needed = [name for name in required if name not in _DERIVED]
    numbers = Counter[str | None]()
    for path, split in split_files(source):
        derived: set[str] | None = None
        for row in read_table(path, fields, needed):
            numbers[split] += 1
            if isinstance(row, RejectedRow):
                yield row
                continue
            if derived is None:
                derived = {name for name in _DERIVED if name not in row.data}
            ready = _from_cells(row, split, required, as_json)
            if isinstance(ready, SourceRow):
                derived_fields = _derive(ready.data, derived, needed, numbers[split], split)
                ready = replace(ready, data={**derived_fields, **ready.data})
            yield ready


def _derive(record: Record, derived: Set[str], needed: Sequence[str], number: int, split: str | None) -> Record:
    history = record.get("history")
    first = history[0] if isinstance(history, list) and history else None
    text = as_text(first.get("text") if isinstance(first, Mapping) else record.get(needed[0]))
    values = {"id": f"{split or 'row'}-{number}", "group": normalised(text) or text}
    return {name: value for name, value in values.items() if name in derived}


def native_format(required: Sequence[str], optional: Sequence[str], as_json: Sequence[str], **more: Any) -> Format:
    """The format `native` of a task, see `native`; `more` are further fields of the format."""

    def read(source: Path, options: Options) -> FormatRows:
        return native(source, options, required, as_json)

    return Format("native", NATIVE, read, options=native_columns(*required, *optional), **more)


def shop_format(records: str, read: FormatReader, **more: Any) -> Format:
    """The format `shop` of a task, whose records are a file of the shop's folder."""

    def read_shop(source: Path, options: Options) -> FormatRows:
        return read(source / records, options)

    return Format("shop", "a folder written by the synthetic shop", read_shop, graded_by="synthetic", **more)


#: What becomes of a row: its record, another row, the reason why it is rejected, or None if it is left out.
Converted: TypeAlias = Record | SourceRow | str | None

_Other = TypeVar("_Other")  # what is in rows besides rows: rejected ones and reports


def converted(
    rows: Iterator[SourceRow | _Other], convert: Callable[[SourceRow], Converted]
) -> Iterator[SourceRow | RejectedRow | _Other]:
    """The rows with what a function makes of their data; rejected rows and reports pass through.

    Rows come here before the record schema has seen them, so their fields may be of any type. A row that the function
    raises for is rejected; it does not end the build.
    """
    for row in rows:
        if not isinstance(row, SourceRow):
            yield row
            continue
        try:
            result = convert(row)
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            result = f"is not a row of this format ({type(error).__name__}: {error})"
        if isinstance(result, str):
            yield RejectedRow(row.where, result, row.data)
        elif result is not None:
            yield result if isinstance(result, SourceRow) else replace(row, data=result)


def mapped(read: FormatReader, to_record: Callable[[Mapping[str, Any]], Converted]) -> FormatReader:
    """A reader whose rows are converted by their data alone, as `converted` does."""
    return lambda source, options: converted(read(source, options), lambda row: to_record(row.data))


def with_options(
    format: Format, options: Mapping[str, Option], converter: Callable[[Options], Callable[[Record], Converted]]
) -> Format:
    """A format with further options, by which every row that it reads is checked or changed.

    Args:
        format: The format to extend.
        options: Each further option by its name; they are not passed to the format's reader.
        converter: Returns a function for the data of rows from the given options. It may raise for unusable options.
    """

    def read(source: Path, values: Options) -> FormatRows:
        convert = converter(values)
        own = {key: value for key, value in values.items() if key not in options}
        yield from mapped(format.read, convert)(source, own)

    return replace(format, read=read, options={**format.options, **options})


def with_split(record: Record, split: str | None) -> Record:
    """The record with its official split, if the source has one."""
    return record if split is None else {**record, "split": split}


def _from_cells(
    row: SourceRow, split: str | None, required: Sequence[str], as_json: Sequence[str]
) -> SourceRow | RejectedRow:
    # A table leaves out an optional field by an empty cell.
    record = {name: value for name, value in row.data.items() if name in required or value not in (None, "")}
    record |= {name: as_word(record[name]) for name in _DERIVED if name in record}  # a database has numbers
    for name in as_json:
        if isinstance(text := record.get(name), str):
            try:  # spreadsheets write TRUE, and Python True
                record[name] = parse_json(text.lower() if text.lower() in ("true", "false") else text)
            except ValueError:
                return RejectedRow(row.where, f"field '{name}': is not JSON", row.data)
    return replace(row, data=with_split(record, split))


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


def document_id(text: str) -> str:
    """The id of a text: 16 hexadecimal digits of a hash that ignores case and punctuation.

    Examples:
        >>> document_id("Red tent!") == document_id("red tent")
        True
    """
    return f"{fingerprint(normalised(text)):016x}"


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
