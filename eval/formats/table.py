"""Topics as CSV, under a header with `id`, `query` and any further fields.

CSV has no types: a column whose every cell reads as a number holds numbers, any other text. An empty cell is a field
that the topic has not. What would not come back as it was is not written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from searchlora.errors import DataError
from searchlora.eval.formats.contract import Format, TopicRow, Topics, TopicsForm
from searchlora.eval.formats.delimited import delimited_rows, first_fields, write_delimited


def _rows(path: Path) -> Iterator[TopicRow]:
    rows = list(delimited_rows(path, ",", ("id", "query")))
    columns = {name: _typed([row[name] for _, row in rows]) for name in (rows[0][1] if rows else ())}
    for number, (where, row) in enumerate(rows):
        fields = {name: column[number] for name, column in columns.items() if name not in ("id", "query")}
        yield TopicRow(where, row["id"], {"query": row["query"], **fields})


def _typed(cells: Sequence[str]) -> Sequence[str | float | None]:
    filled: list[str | float | None] = [cell or None for cell in cells]
    try:
        return [None if cell is None else _number(str(cell)) for cell in filled]
    except ValueError:
        return filled


def _number(cell: str) -> float:
    """Numbers as a program writes them: `007` and `1_000` are codes, `nan` is a word."""
    for kind in (int, float):
        try:
            number: float = kind(cell)
        except ValueError:
            continue
        if repr(number) == cell and cell.lstrip("-")[0].isdecimal():
            return number
    raise ValueError(cell)


def _write(path: Path, topics: Topics) -> None:
    names = list(dict.fromkeys(name for fields in topics.values() for name in fields if name != "query"))
    for name in names:
        values = [fields.get(name) for fields in topics.values()]
        if list(_typed([_cell(value) for value in values])) != values:
            raise DataError(
                f"the values of field '{name}' would not come back from CSV as they are",
                where=str(path),
                fix="Write jsonl or parquet, which know text from numbers.",
            )
    rows = [(topic, fields["query"], *(_cell(fields.get(name)) for name in names)) for topic, fields in topics.items()]
    write_delimited(path, [("id", "query", *names), *rows], ",")


def _cell(value: str | float | None) -> str:
    return "" if value is None else value if isinstance(value, str) else repr(value)


FORMAT = Format(
    name="csv",
    topics=TopicsForm(
        shape="a header with id, query and further fields",
        recognises=lambda head: {"id", "query"} <= set(first_fields(head.line, ",")),
        endings=(".csv",),
        rows=_rows,
        write=_write,
    ),
)
