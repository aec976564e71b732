"""Field maps: which columns of a user's file hold the fields that a reader needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from searchlora.errors import UsageError

#: Field -> the columns that it is read from.
FieldMap: TypeAlias = Mapping[str, tuple[str, ...]]


def parse_field_map(pairs: Sequence[str]) -> FieldMap:
    """A field map from `field=column` or `field=column,column`, the values of `--map`.

    Examples:
        >>> parse_field_map(["id=sku", "text=title,short_description"])
        {'id': ('sku',), 'text': ('title', 'short_description')}
    """
    fields: dict[str, tuple[str, ...]] = {}
    for pair in pairs:
        field, equals, value = pair.partition("=")
        columns = tuple(column.strip() for column in value.split(","))
        if not equals or not field.strip() or not all(columns):
            raise UsageError(f"'{pair}' maps no column to a field", fix="Write --map text=title,description.")
        if field.strip() in fields:
            raise UsageError(f"the field '{field.strip()}' is mapped twice", fix="Join its columns: text=title,body.")
        fields[field.strip()] = columns
    return fields


def as_text(value: Any) -> str:
    """A value of a file as text: a list by its members and blanks, an object as JSON, nothing as an empty text.

    Examples:
        >>> as_text(["Action", 2022, None]), as_text({"a": 1})
        ('Action 2022 ', '{"a": 1}')
    """
    if isinstance(value, list):
        return " ".join(map(as_text, value))
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value)


def mapped(row: Mapping[str, Any], fields: FieldMap) -> dict[str, Any]:
    """The row with each field of the map read from its columns.

    A single column is taken as it is. Several are joined by a blank, without those that are missing or empty; the field
    is empty where all are, and missing where no column is there. A column that was mapped to another field is still
    there under its own name, unless a field has that name.

    Examples:
        >>> mapped({"sku": 7, "title": "Tent", "body": ""}, {"id": ("sku",), "text": ("title", "body")})
        {'sku': 7, 'title': 'Tent', 'body': '', 'id': 7, 'text': 'Tent'}
    """
    values: dict[str, Any] = {}
    for field, columns in fields.items():
        present = [row[column] for column in columns if row.get(column) not in (None, "")]
        if len(columns) == 1 and present:
            values[field] = present[0]
        elif present:
            values[field] = " ".join(map(as_text, present))
        elif any(column in row for column in columns):
            values[field] = ""
    return {**{name: value for name, value in row.items() if name not in fields}, **values}
