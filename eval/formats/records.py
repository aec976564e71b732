"""Formats of one record a row: `jsonl`, the JSON Lines of this project, `parquet`, and `csv` for topics.

Records of qrels have the keys `topic`, `document` and `grade`, those of runs `topic`, `document` and `score`, those of
topics `id`, `query` and any further fields. Further keys of qrels and runs are ignored. Rows of Parquet are counted
from 1.

CSV has no types: a column in which every cell is a number holds numbers, any other holds text. An empty cell is a
missing field. Values that would not be read back unchanged are not written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from searchlora.errors import DataError, UsageError
from searchlora.eval.formats.base import (
    Form,
    Format,
    TopicRow,
    Topics,
    TripleRow,
    first_fields,
    has_keys,
    json_rows,
    table_rows,
)
from searchlora.eval.formats.checks import collect_run
from searchlora.eval.trec import Run, ranked
from searchlora.files import Head, atomic_bytes, atomic_text, json_line, open_bytes, strict
from searchlora.files.rows import parquet_rows, write_delimited
from searchlora.files.text import is_gzip

QRELS_COLUMNS = ("topic", "document", "grade")
RUN_COLUMNS = ("topic", "document", "score")
TOPIC_COLUMNS = ("id", "query")

#: The file and its required columns -> the place of each record, and the record.
_Read: TypeAlias = Callable[[Path, Sequence[str]], Iterator[tuple[str, Mapping[str, Any]]]]

#: The file, the columns that it always has, and the records.
_Write: TypeAlias = Callable[[Path, Sequence[str], Iterable[Mapping[str, Any]]], None]


def _record_format(
    name: str,
    read: _Read,
    write: _Write,
    recognises: Callable[[Sequence[str]], Callable[[Head], bool]],
    suffixes: tuple[str, ...],
    shape: str,
) -> Format:
    """A format from a reader and a writer of records.

    Args:
        recognises: Columns -> whether the head of a file looks like records with them.
        shape: For messages; `{}` stands for the columns.
    """

    def rows(path: Path, columns: Sequence[str]) -> Iterator[TripleRow]:
        for where, row in read(path, columns):
            yield TripleRow(where, *(row.get(column) for column in columns))

    def topic_rows(path: Path) -> Iterator[TopicRow]:
        for where, row in read(path, TOPIC_COLUMNS):
            yield TopicRow(where, row.get("id"), {name: value for name, value in row.items() if name != "id"})

    def write_rows(path: Path, columns: Sequence[str], values: Mapping[str, Mapping[str, float]]) -> None:
        triples = ((topic, document, value) for topic, row in values.items() for document, value in row.items())
        write(path, columns, (dict(zip(columns, triple, strict=True)) for triple in triples))

    def write_run(path: Path, run: Run, tag: str) -> None:
        del tag  # these formats do not store it
        ordered = {topic: {document: scores[document] for document in ranked(scores)} for topic, scores in run.items()}
        write_rows(path, RUN_COLUMNS, ordered)

    def described(columns: Sequence[str], further: str = "") -> dict[str, Any]:
        listed = shape.format(", ".join(columns)) + further
        return {"shape": listed, "recognises": recognises(columns), "suffixes": suffixes}

    return Format(
        name=name,
        qrels=Form(
            **described(QRELS_COLUMNS),
            read=lambda path: rows(path, QRELS_COLUMNS),
            write=lambda path, qrels: write_rows(path, QRELS_COLUMNS, qrels),
        ),
        run=Form(**described(RUN_COLUMNS), read=lambda path: collect_run(rows(path, RUN_COLUMNS)), write=write_run),
        topics=Form(
            **described(TOPIC_COLUMNS, " and further fields"),
            read=topic_rows,
            write=lambda path, topics: write(
                path, TOPIC_COLUMNS, ({"id": topic, **fields} for topic, fields in topics.items())
            ),
        ),
    )


def _read_lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    del columns  # a missing value is found when the record is checked
    yield from json_rows(path)


def _write_lines(path: Path, columns: Sequence[str], records: Iterable[Mapping[str, Any]]) -> None:
    del columns
    with atomic_text(path) as out:
        out.writelines(json_line(dict(record)) for record in records)


def _read_parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with open_bytes(path) as file:
        for row in strict(parquet_rows(file, str(path), columns, None if columns == TOPIC_COLUMNS else columns)):
            yield row.where, row.data


def _write_parquet(path: Path, columns: Sequence[str], records: Iterable[Mapping[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    if is_gzip(path):
        raise UsageError("a Parquet file is compressed internally", where=str(path), fix="Leave .gz out of the name.")
    rows = list(records)
    arrays = {}
    for name in dict.fromkeys((*columns, *(name for row in rows for name in row))):
        try:
            arrays[name] = pyarrow.array([row.get(name) for row in rows])
        except (pyarrow.ArrowException, UnicodeEncodeError, OverflowError) as error:
            raise DataError(f"the values of '{name}' are not a column of one type ({error})", where=str(path)) from None
    with atomic_bytes(path) as out:
        pyarrow.parquet.write_table(pyarrow.table(arrays), out)


def topic_table(path: Path, delimiter: str = ",") -> Iterator[TopicRow]:
    """The topics of a table with a header; a quote in a tab-separated one is a character of the query."""
    rows = list(table_rows(path, delimiter, TOPIC_COLUMNS, quoted=delimiter != "\t"))
    columns = {name: _typed([row[name] for _, row in rows]) for name in (rows[0][1] if rows else ())}
    for number, (where, row) in enumerate(rows):
        fields = {name: column[number] for name, column in columns.items() if name not in ("id", "query")}
        yield TopicRow(where, row["id"], {"query": row["query"], **fields})


def _typed(cells: Sequence[str]) -> Sequence[str | float | None]:
    """A column as numbers if all its cells are numbers, else as text; None for an empty cell."""
    filled: list[str | float | None] = [cell or None for cell in cells]
    try:
        return [None if cell is None else _number(str(cell)) for cell in filled]
    except ValueError:
        return filled


def _number(cell: str) -> float:
    """The number in a cell as a program writes it: `007` and `1_000` are codes, `nan` is a word."""
    for kind in (int, float):
        try:
            number: float = kind(cell)
        except ValueError:
            continue
        if repr(number) == cell and cell.lstrip("-")[0].isdecimal():
            return number
    raise ValueError(cell)


def _write_csv_topics(path: Path, topics: Topics) -> None:
    names = list(dict.fromkeys(name for fields in topics.values() for name in fields if name != "query"))
    for name in names:
        values = [fields.get(name) for fields in topics.values()]
        if list(_typed([_cell(value) for value in values])) != values:
            raise DataError(
                f"the values of field '{name}' would not be read back from CSV unchanged",
                where=str(path),
                fix="Write jsonl or parquet, which keep text and numbers apart.",
            )
    rows = [(topic, fields["query"], *(_cell(fields.get(name)) for name in names)) for topic, fields in topics.items()]
    write_delimited(path, [("id", "query", *names), *rows], ",")


def _cell(value: str | float | None) -> str:
    return "" if value is None else value if isinstance(value, str) else repr(value)


JSONL = _record_format(
    "jsonl",
    _read_lines,
    _write_lines,
    lambda columns: lambda head: has_keys(head, *columns),
    (".jsonl", ".ndjson"),
    "an object with {} a line",
)

PARQUET = _record_format(
    "parquet",
    _read_parquet,
    _write_parquet,
    lambda columns: lambda head: head.raw[:4] == b"PAR1",  # noqa: ARG005 (the columns are not in the first bytes)
    (".parquet",),
    "columns {}",
)

CSV = Format(
    name="csv",
    topics=Form(
        shape="a header with id, query and further fields",
        recognises=lambda head: set(TOPIC_COLUMNS) <= set(first_fields(head.line, ",")),
        suffixes=(".csv",),
        read=topic_table,
        write=_write_csv_topics,
    ),
)
