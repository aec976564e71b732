"""Parts of which the schemas of the OpenAPI document are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STRING, INTEGER, NUMBER, BOOLEAN = ({"type": kind} for kind in ("string", "integer", "number", "boolean"))

NULLABLE_STRING = {"type": ["string", "null"]}
NULLABLE_NUMBER = {"type": ["number", "null"]}
NULLABLE_INTEGER = {"type": ["integer", "null"]}


def an_object(properties: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Schema of an object with required and optional properties."""
    return {"type": "object", "properties": {**properties, **(optional or {})}, "required": list(properties)}


def a_list(items: Mapping[str, Any]) -> dict[str, Any]:
    """Schema of a list."""
    return {"type": "array", "items": dict(items)}
