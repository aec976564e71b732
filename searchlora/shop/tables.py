"""Source tables of the synthetic shop (`data_tables/`): attributes, product types with their brands, and phrases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

_FOLDER = Path(__file__).parent / "data_tables"

#: Libyaml takes a tenth of the time, where PyYAML is built with it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Words:
    """Shopper words for one catalogue term; `unseen` words occur in test queries only."""

    words: Sequence[str]
    unseen: Sequence[str]


@dataclass(frozen=True)
class Attribute:
    """A product attribute.

    Args:
        unit: The shopper words are other notations of a measure or a size.
        shared: All variants of a product family have the same value.
        follow: Templates with which a later turn of a conversation names a value.
        never_with: Value -> values of other attributes that exclude it.
        values: Value in catalogue language -> shopper words.
    """

    name: str
    follow: Sequence[str]
    values: Mapping[str, Words]
    unit: bool = False
    shared: bool = False
    never_with: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class ProductType:
    """A product type in catalogue language.

    Args:
        ambiguous: Pairs of an ambiguous word and the context word that resolves it to this type.
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
    """All inputs of the generator besides the seed."""

    attributes: Mapping[str, Attribute]
    types: Mapping[str, ProductType]
    phrases: Mapping[str, Sequence[str]]

    @property
    def categories(self) -> list[str]:
        """All categories, in table order."""
        return list(dict.fromkeys(kind.category for kind in self.types.values()))

    @property
    def brands(self) -> list[str]:
        """All brands in lower case, sorted."""
        return sorted({brand.lower() for kind in self.types.values() for brand in kind.brands})


@lru_cache(maxsize=1)
def load_tables() -> Tables:
    """The packaged tables; read once."""
    attributes = {
        name: Attribute(
            name=name, **{**raw, "values": {value: Words(**words) for value, words in raw["values"].items()}}
        )
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
    """Names of the tables in a folder of `data_tables/`, sorted."""
    return sorted(file.stem for file in (_FOLDER / folder).glob("*.yaml"))


@cache
def load_table(name: str) -> dict[str, Any]:
    """A table of `data_tables/` by its path without suffix ("intents/prices"); cached, so treat it as read-only."""
    return _read(_FOLDER / f"{name}.yaml")


def _read(file: Path) -> dict[str, Any]:
    table: dict[str, Any] = yaml.load(file.read_text(encoding="utf-8"), Loader=_LOADER)
    return table


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
