"""Table formats: `csv` for topics, and `parquet` for qrels, runs and topics.

csv: a header with `id`, `query` and any further fields. CSV has no types: a column in which every cell is a number
holds numbers, any other holds text. An empty cell is a missing field. Values that would not be read back unchanged are
not written.

parquet: the columns of the rows of `jsonl`. Rows are counted from 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from searchlora.errors import DataError, UsageError
from searchlora.eval.formats.base import (
    Format,
    QrelsForm,
    Row,
    RunForm,
    TopicRow,
    Topics,
    TopicsForm,
    first_fields,
    table_rows,
)
from searchlora.eval.formats.checks import collect_run
from searchlora.eval.trec import Qrels, Run, ranked
from searchlora.files import Head, SourceRow, atomic_bytes, open_bytes, strict
from searchlora.files.rows import parquet_rows, write_delimited
from searchlora.files.text import is_gzip

_PARQUET = (".parquet",)
TOPIC_COLUMNS = ("id", "query")


def topic_table(path: Path, delimiter: str = ",") -> Iterator[TopicRow]:
    """The topics of a table with a header."""
    rows = list(table_rows(path, delimiter, TOPIC_COLUMNS))
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


def _parquet(path: Path, required: Sequence[str], columns: Sequence[str] | None = None) -> Iterator[SourceRow]:
    with open_bytes(path) as file:
        yield from strict(parquet_rows(file, str(path), required, columns))


def _parquet_rows(path: Path, value: str) -> Iterator[Row]:
    columns = ("topic", "document", value)
    for row in _parquet(path, columns, columns):
        yield Row(row.where, *(row.data[name] for name in columns))


def _parquet_topic_rows(path: Path) -> Iterator[TopicRow]:
    for row in _parquet(path, ("id", "query")):
        yield TopicRow(row.where, row.data["id"], {name: value for name, value in row.data.items() if name != "id"})


def _write_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    if is_gzip(path):
        raise UsageError("a Parquet file is compressed internally", where=str(path), fix="Leave .gz out of the name.")
    arrays = {}
    for name, values in columns.items():
        try:
            arrays[name] = pyarrow.array(values)
        except (pyarrow.ArrowException, UnicodeEncodeError, OverflowError) as error:
            raise DataError(f"the values of '{name}' are not a column of one type ({error})", where=str(path)) from None
    with atomic_bytes(path) as out:
        pyarrow.parquet.write_table(pyarrow.table(arrays), out)


def _write_parquet_qrels(path: Path, qrels: Qrels) -> None:
    rows = [(topic, document, grade) for topic, grades in qrels.items() for document, grade in grades.items()]
    _write_parquet(path, _columns(("topic", "document", "grade"), rows))


def _write_parquet_run(path: Path, run: Run, tag: str) -> None:
    del tag  # the format does not store it
    rows = [(topic, document, scores[document]) for topic, scores in run.items() for document in ranked(scores)]
    _write_parquet(path, _columns(("topic", "document", "score"), rows))


def _write_parquet_topics(path: Path, topics: Topics) -> None:
    names = list(dict.fromkeys(name for fields in topics.values() for name in ("query", *fields)))
    columns = {name: [fields.get(name) for fields in topics.values()] for name in names}
    _write_parquet(path, {"id": list(topics), **columns})


def _columns(names: Sequence[str], rows: list[tuple[Any, ...]]) -> dict[str, list[Any]]:
    return {name: [row[position] for row in rows] for position, name in enumerate(names)}


def _is_parquet(head: Head) -> bool:
    return head.raw[:4] == b"PAR1"


CSV = Format(
    name="csv",
    topics=TopicsForm(
        shape="a header with id, query and further fields",
        recognises=lambda head: set(TOPIC_COLUMNS) <= set(first_fields(head.line, ",")),
        suffixes=(".csv",),
        rows=topic_table,
        write=_write_csv_topics,
    ),
)

PARQUET = Format(
    name="parquet",
    qrels=QrelsForm(
        shape="columns topic, document, grade",
        recognises=_is_parquet,
        suffixes=_PARQUET,
        rows=lambda path: _parquet_rows(path, "grade"),
        write=_write_parquet_qrels,
    ),
    run=RunForm(
        shape="columns topic, document, score",
        recognises=_is_parquet,
        suffixes=_PARQUET,
        read=lambda path: collect_run(_parquet_rows(path, "score")),
        write=_write_parquet_run,
    ),
    topics=TopicsForm(
        shape="columns id, query and further fields",
        recognises=_is_parquet,
        suffixes=_PARQUET,
        rows=_parquet_topic_rows,
        write=_write_parquet_topics,
    ),
)
