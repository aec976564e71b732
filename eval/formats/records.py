"""Formats of one record a row: `jsonl`, the JSON Lines of this project, and `csv` for topics.

Records of qrels have the keys `topic`, `document` and `grade`, those of runs `topic`, `document` and `score`, those of
topics `id`, `query` and any further fields. Further keys of qrels and runs are ignored.

CSV has no types: a column in which every cell is a number holds numbers, any other holds text. An empty cell is a
missing field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from searchlora.eval.formats.base import (
    Form,
    Format,
    TopicRow,
    TripleRow,
    first_fields,
    has_keys,
    json_rows,
    table_rows,
)
from searchlora.eval.formats.checks import collect_run

QRELS_COLUMNS = ("topic", "document", "grade")
RUN_COLUMNS = ("topic", "document", "score")
TOPIC_COLUMNS = ("id", "query")


def _triples(columns: Sequence[str]) -> Callable[[Path], Iterator[TripleRow]]:
    def rows(path: Path) -> Iterator[TripleRow]:
        for where, row in json_rows(path):
            yield TripleRow(where, *(row.get(column) for column in columns))

    return rows


def _topic_rows(path: Path) -> Iterator[TopicRow]:
    for where, row in json_rows(path):
        yield TopicRow(where, row.get("id"), {name: value for name, value in row.items() if name != "id"})


def _form(columns: Sequence[str], read: Callable[[Path], Any]) -> Form:
    return Form(
        shape=f"an object with {', '.join(columns)} a line",
        recognises=lambda head: has_keys(head, *columns),
        suffixes=(".jsonl", ".ndjson"),
        read=read,
    )


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


JSONL = Format(
    name="jsonl",
    qrels=_form(QRELS_COLUMNS, _triples(QRELS_COLUMNS)),
    run=_form(RUN_COLUMNS, lambda path: collect_run(_triples(RUN_COLUMNS)(path))),
    topics=_form(TOPIC_COLUMNS, _topic_rows),
)

CSV = Format(
    name="csv",
    topics=Form(
        shape="a header with id, query and further fields",
        recognises=lambda head: set(TOPIC_COLUMNS) <= set(first_fields(head.line, ",")),
        suffixes=(".csv",),
        read=topic_table,
    ),
)
