"""Reads the shop's tables (`data_tables/`): attributes, product types with their brands, and phrases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

_FOLDER = Path(__file__).parent / "data_tables"


@dataclass(frozen=True)
class Words:
    """What shoppers say for one catalogue term; `unseen` words occur in test queries only."""

    words: Sequence[str]
    unseen: Sequence[str]


@dataclass(frozen=True)
class Attribute:
    """A property of products.

    Args:
        unit: The shopper's words are other notations of a measure or a size.
        shared: All variants of a product family have the same value.
        follow: Templates by which a later turn of a conversation names a value.
        never_with: Value -> values of other attributes that no product has beside it.
        values: Value in catalogue language -> shoppers' words.
    """

    name: str
    unit: bool
    shared: bool
    follow: Sequence[str]
    never_with: Mapping[str, Sequence[str]]
    values: Mapping[str, Words]


@dataclass(frozen=True)
class ProductType:
    """A product type in catalogue language.

    Args:
        ambiguous: Pairs of a word that has several meanings and what has to stand beside it to mean this type.
        attributes: Names of its attributes.
        goes_with: Types that complement it.
    """

    name: str
    category: str
    brands: Sequence[str]
    features: Sequence[str]
    attributes: Sequence[str]
    words: Words
    ambiguous: Sequence[tuple[str, str]]
    goes_with: Sequence[str]


@dataclass(frozen=True)
class Tables:
    """Everything that the shop is made from, besides the seed."""

    attributes: Mapping[str, Attribute]
    types: Mapping[str, ProductType]
    phrases: Mapping[str, Sequence[str]]


@lru_cache(maxsize=1)
def load_tables() -> Tables:
    """The tables as packaged; read once."""
    attributes = {
        name: _attribute(name, raw)
        for file in sorted((_FOLDER / "attributes").glob("*.yaml"))
        for name, raw in _read(file).items()
    }
    types = {
        name: _product_type(name, category, shelf, raw)
        for file in sorted((_FOLDER / "taxonomy").glob("*.yaml"))
        for category, shelf in _read(file).items()
        for name, raw in shelf["types"].items()
    }
    return Tables(attributes, types, _read(_FOLDER / "phrases.yaml"))


def table_names(folder: str) -> list[str]:
    """The tables of a folder of `data_tables/`, in order."""
    return sorted(file.stem for file in (_FOLDER / folder).glob("*.yaml"))


@cache
def load_table(name: str) -> dict[str, Any]:
    """A table of `data_tables/` by its path without ending ("intents/prices"); read once, not to be changed."""
    return _read(_FOLDER / f"{name}.yaml")


def _read(file: Path) -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return table


def _attribute(name: str, raw: Mapping[str, Any]) -> Attribute:
    return Attribute(
        name=name,
        unit=raw.get("unit", False),
        shared=raw.get("shared", False),
        follow=raw["follow"],
        never_with=raw.get("never_with", {}),
        values={value: Words(words["words"], words["unseen"]) for value, words in raw["values"].items()},
    )


def _product_type(name: str, category: str, shelf: Mapping[str, Any], raw: Mapping[str, Any]) -> ProductType:
    return ProductType(
        name=name,
        category=category,
        brands=shelf["brands"],
        features=shelf["features"],
        attributes=raw["attributes"],
        words=Words(raw["words"], raw["unseen"]),
        ambiguous=[(entry["word"], cue) for entry in raw.get("ambiguous", []) for cue in entry["cues"]],
        goes_with=raw["goes_with"],
    )
