"""Strict JSON: values that every later step can store, print and compute with, or an error that says why not.

Refused beyond the JSON grammar: NaN and infinities, integers outside 64 bits, keys that occur twice in an object, lone
surrogates in texts, and nesting deeper than `MAX_DEPTH`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from searchlora.errors import DataError
from searchlora.files.text import open_text

#: Nested arrays and objects of a value.
MAX_DEPTH = 100

MAX_INTEGER = 2**63 - 1

TOO_DEEP = f"it is nested deeper than {MAX_DEPTH} levels"
_SURROGATE = "a text holds a lone surrogate"


class UnfitText(ValueError):
    """A JSON value whose texts cannot be stored; `value` is the value."""

    def __init__(self, fault: str, value: Any) -> None:
        super().__init__(fault)
        self.value = value


class Pairs(list[tuple[str, Any]]):
    """A JSON object as its key-value pairs in file order, repeated keys included."""


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Examples:
        >>> parse_json('{"clicks": 3}')
        {'clicks': 3}
        >>> parse_json('{"clicks": 1e999}')
        Traceback (most recent call last):
            ...
        ValueError: the number 1e999 is not finite
    """
    return _parse(text, _DECODER)


def json_object(text: str, where: str) -> dict[str, Any]:
    """The object of a JSON text. Raises `DataError` naming `where` if it is not one."""
    try:
        value = parse_json(text)
    except ValueError as error:
        raise DataError(f"is not JSON ({error})", where=where) from None
    if not isinstance(value, dict):
        raise DataError("is not a JSON object", where=where)
    return value


def json_file(path: Path, *, pairs: bool = False) -> Any:
    """The value of a JSON file."""
    with open_text(path) as file:
        text = file.read()
    try:
        return _parse(text, _PAIRS_DECODER if pairs else _DECODER)
    except json.JSONDecodeError as error:
        raise DataError(f"is not JSON ({error.msg})", where=f"{path}, line {error.lineno}") from None
    except ValueError as error:
        raise DataError(f"is not JSON of this format ({error})", where=str(path)) from None


def json_line(row: dict[str, object]) -> str:
    """A line of a JSON Lines file, with its line feed."""
    return _ENCODER.encode(row) + "\n"


def value_fault(value: Any, *, allow_nul: bool = False, also: tuple[type, ...] = ()) -> str | None:
    """Why a value cannot be stored as strict JSON, or None.

    Examples:
        >>> value_fault({"texts": ["a", "b\\ud800"]})
        'a text holds a lone surrogate'
        >>> value_fault({"score": 0.5}) is None
        True
    """
    pending: list[tuple[Any, int]] = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        if isinstance(item, str):
            if fault := text_fault(item, allow_nul=allow_nul):
                return fault
        elif isinstance(item, dict | list):
            if depth > MAX_DEPTH:
                return TOO_DEEP
            if isinstance(item, dict):
                pending += ((key, depth) for key in item)
                pending += ((member, depth + 1) for member in item.values())
            else:
                pending += ((member, depth + 1) for member in item)
        elif isinstance(item, tuple):  # a member of `Pairs`
            pending += ((member, depth) for member in item)
        elif isinstance(item, (bool, *also)) or item is None:
            continue
        elif isinstance(item, int):
            if abs(item) > MAX_INTEGER:
                return "an integer does not fit in 64 bits"
        elif isinstance(item, float):
            if not math.isfinite(item):
                return f"the number {item} is not finite"
        else:
            return f"JSON has no type for a {type(item).__name__}"
    return None


def text_fault(text: str, *, allow_nul: bool = False) -> str | None:
    """Why a text cannot be stored, or None: a lone surrogate or a NUL character."""
    if not allow_nul and "\0" in text:
        return "a text holds a NUL character"
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return _SURROGATE
    return None


def parse_json_at(text: str, position: int) -> tuple[Any, int]:
    """The value that begins at a position of a text, and the position after it. Raises `ValueError`."""
    try:
        value, end = _DECODER.raw_decode(text, position)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    if fault := value_fault(value, allow_nul=True):
        raise ValueError(fault)
    return value, end


def _parse(text: str, decoder: json.JSONDecoder) -> Any:
    try:
        value = decoder.decode(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    # The decoder checks numbers and keys; the rest is rare enough to look for its traces first.
    if ("\\u" in text or text.count("[") + text.count("{") > MAX_DEPTH) and (
        fault := value_fault(value, allow_nul=True)
    ):
        raise UnfitText(fault, value) if fault == _SURROGATE else ValueError(fault)
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        repeated = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key '{_shortened(repeated, 'characters')}' occurs twice")
    return members


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(number := int(digits)) > MAX_INTEGER:
        raise ValueError(f"the integer {_shortened(digits)} does not fit in 64 bits")
    return number


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {_shortened(digits)} is not finite")
    return number


def _constant(name: str) -> float:
    raise ValueError(f"the number {name} is not a finite number")


def _shortened(text: str, unit: str = "digits") -> str:
    return text if len(text) <= 40 else f"{text[:20]}... of {len(text)} {unit}"


# Made once: `json.loads` and `json.dumps` with options make one for each call.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_int=_integer, parse_float=_float, parse_constant=_constant
)
_PAIRS_DECODER = json.JSONDecoder(
    object_pairs_hook=Pairs, parse_int=_integer, parse_float=_float, parse_constant=_constant
)
_ENCODER = json.JSONEncoder(ensure_ascii=False)


def finite(value: Any) -> Any:
    """A value of JSON with None in place of NaN and infinity, which JSON lacks.

    Examples:
        >>> finite({"mean": float("nan"), "n": [0, 1.5]})
        {'mean': None, 'n': [0, 1.5]}
    """
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
