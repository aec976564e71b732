"""Tables of the keys of recipes and pipeline stages, read from their pydantic models."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Iterator
from typing import Any, get_args, get_origin

_NAMES = {
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "LocalSettings": "mapping",
    "ServerSettings": "mapping",
    "EncoderServer": "mapping",
    "VllmSettings": "mapping",
    "Decides": "mapping",
}
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥"}


def key_rows(model: Any) -> list[tuple[str, str, str, str]]:
    """Key, type with its bounds, default and meaning of each field of a pydantic model; nested keys have dots.

    Examples:
        >>> from searchlora.pipelines.stages.passages import PassagesSettings
        >>> key_rows(PassagesSettings)[-1]
        ('`k`', 'whole number (≥ 1)', '`10`', 'number of hits whose texts are fetched')
    """
    return list(_rows(model, ""))


def _rows(model: Any, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if inspect.isclass(inner) and hasattr(inner, "model_fields"):
            yield from _rows(inner, f"{prefix}{name}.")
            continue
        bounds = ", ".join(_bound(constraint) for constraint in field.metadata if _bound(constraint))
        default = (
            "required"
            if field.is_required()
            else f"`{json.dumps(field.get_default(call_default_factory=True), default=str)}`"
        )
        kind = _type(inner) + (f" ({bounds})" if bounds else "")
        yield f"`{prefix}{name}`", kind, default, field.description or ""


def _bound(constraint: Any) -> str:
    return ", ".join(f"{sign} {getattr(constraint, key)}" for key, sign in _SIGNS.items() if hasattr(constraint, key))


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(argument) for argument in arguments))
    if annotation is type(None):
        return "none"
    if origin in (list, tuple):
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return "mapping"
    if origin is typing.Annotated:
        return _type(arguments[0])
    return _NAMES.get(getattr(annotation, "__name__", ""), "stage")
