"""Reader of click logs: a row for each impression of a document, in JSONL, CSV, TSV or Parquet."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from searchlora.errors import RowError
from searchlora.eval.judgments.clicks import Impression
from searchlora.files import read_rows
from searchlora.files.json_text import text_fault
from searchlora.records import RejectedRow

#: Field of an impression -> default name of its column.
COLUMNS: Mapping[str, str] = {"query": "query", "document": "document", "position": "position", "clicked": "clicked"}

#: Greatest position of an impression. A greater number is a mistake in the log, not a rank.
MAX_POSITION = 1_000_000

_INTEGER = re.compile(r"[+-]?[0-9]+")
_CLICKED = {"1": True, "true": True, "0": False, "false": False}


def read_clicks(
    path: Path, columns: Mapping[str, str] | None = None, rejected: list[RejectedRow] | None = None
) -> Iterator[Impression]:
    """Read a log row by row, in constant memory.

    Args:
        columns: Field (see `COLUMNS`) -> name of its column, if different.
        rejected: Gets the malformed rows; None: the first one is an error.

    Raises:
        DataError: if the file cannot be read or lacks a column.
        RowError: for the first malformed row, naming file and line: a clicked that is not 0, 1, true or false; a
            position that is not an integer from 1 to `MAX_POSITION`; a query or document that is empty, is not text or
            holds a NUL character.
    """
    names = {**COLUMNS, **(columns or {})}
    for row in read_rows(path, list(names.values())):
        try:
            if isinstance(row, RejectedRow):
                raise RowError(row.reason, where=row.where)
            yield _impression({field: row.data.get(name) for field, name in names.items()}, names, row.where)
        except RowError as error:
            if rejected is None:
                raise
            rejected.append(RejectedRow(error.where or row.where, error.what, row.data))


def _impression(values: Mapping[str, Any], names: Mapping[str, str], where: str) -> Impression:
    query, document = (_text(values[field], names[field], where) for field in ("query", "document"))
    clicked = _CLICKED.get(str(values["clicked"]).strip().lower())
    if clicked is None:
        raise RowError(
            f"{_shown(values['clicked'])} is not 0, 1, true or false", where=f"{where}, field {names['clicked']}"
        )
    return Impression(query, document, _position(values["position"], f"{where}, field {names['position']}"), clicked)


def _text(value: Any, name: str, where: str) -> str:
    text = str(value).strip() if isinstance(value, (str, int)) else ""
    if not text:
        raise RowError("is empty or not text", where=f"{where}, field {name}")
    if fault := text_fault(text):
        raise RowError(f"cannot be used: {fault}", where=f"{where}, field {name}")
    return text


def _position(value: Any, where: str) -> int:
    text = str(value).strip()
    if not _INTEGER.fullmatch(text):
        raise RowError(f"the position {_shown(value)} is not a whole number", where=where)
    # A number of so many digits is out of range, and converting it takes quadratic time.
    if len(text) > 20 or not 1 <= int(text) <= MAX_POSITION:
        raise RowError(f"the position is {_shown(value)}", where=where, fix=f"Positions go from 1 to {MAX_POSITION:,}.")
    return int(text)


def _shown(value: Any) -> str:
    text = f"'{value}'"
    return text if len(text) <= 80 else f"{text[:60]}... of {len(text) - 2} characters"
