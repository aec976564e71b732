"""Reader of click logs: a row for each impression of a document, in JSONL, CSV, TSV or Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from searchlora.errors import RowError
from searchlora.eval.judgments.clicks import Impression
from searchlora.files import read_rows
from searchlora.records import RejectedRow

#: Field of an impression -> default name of its column.
COLUMNS: Mapping[str, str] = {"query": "query", "document": "document", "position": "position", "clicked": "clicked"}

_CLICKED = {"1": True, "true": True, "0": False, "false": False}


def read_clicks(path: Path, columns: Mapping[str, str] | None = None) -> Iterator[Impression]:
    """Read a log row by row, in constant memory.

    Args:
        columns: Field (see `COLUMNS`) -> name of its column, if different.

    Raises:
        DataError: if the file cannot be read or lacks a column.
        RowError: for the first malformed row, naming file and line: a clicked that is not 0, 1, true or false; a
            position that is not an integer from 1; an empty query or document.
    """
    names = {**COLUMNS, **(columns or {})}
    for row in read_rows(path, list(names.values())):
        if isinstance(row, RejectedRow):
            raise RowError(row.reason, where=row.where)
        yield _impression({field: row.data.get(name) for field, name in names.items()}, names, row.where)


def _impression(values: Mapping[str, Any], names: Mapping[str, str], where: str) -> Impression:
    query, document = (_text(values[field], names[field], where) for field in ("query", "document"))
    clicked = _CLICKED.get(str(values["clicked"]).strip().lower())
    if clicked is None:
        raise RowError(f"'{values['clicked']}' is not 0, 1, true or false", where=f"{where}, field {names['clicked']}")
    return Impression(query, document, _position(values["position"], f"{where}, field {names['position']}"), clicked)


def _text(value: Any, name: str, where: str) -> str:
    text = str(value).strip() if isinstance(value, (str, int)) else ""
    if not text:
        raise RowError("is empty or not text", where=f"{where}, field {name}")
    return text


def _position(value: Any, where: str) -> int:
    try:
        position = int(str(value))
    except ValueError:
        raise RowError(f"the position '{value}' is not a whole number", where=where) from None
    if position < 1:
        raise RowError(f"the position is {position}", where=where, fix="Positions count from 1.")
    return position
