"""Outputs as JSON objects, so that a file can hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from searchlora.outputs import CitedAnswer, Grade, InvalidOutput, JsonValue, Label

#: The values of `outputs`, by the key under which `to_json` keeps them.
_KINDS: Mapping[str, type[Any]] = {
    "invalid": InvalidOutput,
    "label": Label,
    "grade": Grade,
    "cited": CitedAnswer,
}


def to_json(output: Any) -> dict[str, JsonValue]:
    """An output as a JSON object with one key that says what it is; `from_json` gives an equal one back.

    Raises:
        TypeError: for a value that is neither of `outputs` nor plain JSON.
    """
    for kind, made in _KINDS.items():
        if isinstance(output, made):
            return {kind: asdict(output)}
    try:
        plain = json.loads(json.dumps(output)) == output  # no tuple, no keys that are numbers
    except TypeError:
        plain = False
    if not plain:
        raise TypeError(f"a {type(output).__name__} is not an output that can be kept")
    return {"value": output}


def from_json(kept: Mapping[str, JsonValue]) -> Any:
    """The output of which `to_json` made this. Raises `ValueError` when it made no such thing."""
    if len(kept) != 1:
        raise ValueError(f"an output is kept under one key, not under {sorted(kept)}")
    ((kind, value),) = kept.items()
    if kind == "value":
        return value
    if kind not in _KINDS:
        raise ValueError(f"'{kind}' is no kind of output")
    try:
        return _KINDS[kind](**{name: tuple(part) if isinstance(part, list) else part for name, part in value.items()})
    except (TypeError, AttributeError) as error:
        raise ValueError(f"is no kept {kind} ({error})") from None
