"""JSON read so that nothing in it is lost: a key that stands twice is an error, and faults have their place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from searchlora.errors import DataError
from searchlora.eval.files import numbered_lines, opened_text
from searchlora.eval.formats.head import Head


class Pairs(list[tuple[str, Any]]):
    """A JSON object as its pairs in the order of the file, keys that stand twice included."""


def json_file(path: Path, *, pairs: bool = False) -> Any:
    """The value in a JSON file.

    Args:
        pairs: Objects as `Pairs`; else as mappings, and a key that stands twice is an error.

    Raises:
        DataError: naming the line, for what is not JSON.
    """
    with opened_text(path) as file:
        text = file.read()
    try:
        return json.loads(text, object_pairs_hook=Pairs if pairs else _mapping)
    except json.JSONDecodeError as error:
        raise DataError(f"is not JSON ({error.msg})", where=f"{path}, line {error.lineno}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON of this format ({error})", where=str(path)) from None


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON Lines file, each with its place.

    Raises:
        DataError: naming the line that is not a JSON object.
    """
    for number, line in numbered_lines(path):
        where = f"{path}, line {number}"
        yield where, json_object(line, where)


def json_object(line: str, where: str) -> dict[str, Any]:
    """The object in a line of JSON. Raises `DataError` naming `where`."""
    try:
        row = _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON ({error})", where=where) from None
    if not isinstance(row, dict):
        raise DataError("is not a JSON object", where=where)
    return row


def has_keys(head: Head, *keys: str) -> bool:
    """Whether the first line of a file is a JSON object with these keys."""
    try:
        row = json.loads(head.line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and all(key in row for key in keys)


def json_line(row: dict[str, object]) -> str:
    """A line of a JSON Lines file."""
    return _ENCODER.encode(row) + "\n"


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)}' stands twice")
    return found


# Made once: `json.loads` and `json.dumps` with options make one for every line.
_DECODER = json.JSONDecoder(object_pairs_hook=_mapping)
_ENCODER = json.JSONEncoder(ensure_ascii=False)
