"""The object that says what a shopper wants, and the JSON Schema that such objects fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from searchlora.shop.prices import PriceBound
from searchlora.shop.tables import Tables

NAVIGATIONAL, INFORMATIONAL, TRANSACTIONAL = "navigational", "informational", "transactional"
OUT_OF_SCOPE = "out-of-scope"


def intent(
    need: str,
    tables: Tables,
    *,
    category: str | None = None,
    product_type: str | None = None,
    facts: Mapping[str, str] | None = None,
    price: PriceBound | None = None,
) -> dict[str, Any]:
    """An object with all fields, in the order of the schema (constrained decoding writes them in that order).

    Args:
        need: One of the four kinds of need.
        category: As in the taxonomy; that of the product type where one is given.
        facts: Brand and attributes; line and article number have no field.
    """
    facts = facts or {}
    return {
        "need": need,
        "category": tables.types[product_type].category if product_type else category,
        "product_type": product_type,
        "brand": facts.get("brand"),
        "attributes": {name: facts[name] for name in tables.attributes if name in facts},
        "min_price": price.lowest if price else None,
        "max_price": price.highest if price else None,
    }


def intent_schema(tables: Tables) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the objects: every name and value of the catalogue, and nothing else."""
    brands = sorted({brand.lower() for kind in tables.types.values() for brand in kind.brands})
    price = {"type": ["number", "null"], "minimum": 0}
    properties: dict[str, Any] = {
        "need": {
            "enum": [NAVIGATIONAL, INFORMATIONAL, TRANSACTIONAL, OUT_OF_SCOPE],
            "description": "go to a page or a known article, learn something, find products to buy, or nothing for us",
        },
        "category": {"enum": [*dict.fromkeys(kind.category for kind in tables.types.values()), None]},
        "product_type": {"enum": [*tables.types, None]},
        "brand": {"enum": [*brands, None]},
        "attributes": {
            "type": "object",
            "additionalProperties": False,
            "properties": {name: {"enum": list(table.values)} for name, table in tables.attributes.items()},
        },
        "min_price": price,
        "max_price": price,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What a shopper wants",
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
    }
