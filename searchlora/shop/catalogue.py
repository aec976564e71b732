"""Product catalogue of the shop: product i is a function of the seed and i, so none is kept in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from searchlora.shop.tables import ProductType, Tables

#: Variants (colours, sizes) of one product family.
FAMILY_SIZE = 3

_CACHE_SIZE = 4096


@dataclass(frozen=True, slots=True)
class Product:
    """A product.

    Args:
        type: Product type in catalogue language.
        family: Type, brand, line and model, shared by its variants.
        facts: `brand`, `line`, `sku` and the attributes of the type -> value in catalogue language.
        model: The number in its title.
        feature: A sentence of its description.
    """

    id: str
    type: str
    family: str
    facts: Mapping[str, str]
    model: int
    feature: str


class Catalogue:
    """`size` products that cycle through the product types; the same seed and tables give the same products.

    Examples:
        >>> from searchlora.shop.tables import load_tables
        >>> catalogue = Catalogue(load_tables(), size=600, seed=13)
        >>> catalogue.product(7) == catalogue.by_id("p0000007")
        True
    """

    def __init__(self, tables: Tables, *, size: int, seed: int) -> None:
        self.size = size
        self._seed = seed
        self._tables = tables
        self._types: list[ProductType] = list(tables.types.values())
        self._numbers = {kind.name: number for number, kind in enumerate(self._types)}
        self._values = {name: list(attribute.values) for name, attribute in tables.attributes.items()}
        self._lines = tables.phrases["lines"]
        self._cached = lru_cache(maxsize=_CACHE_SIZE)(self._make)

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Product]:
        return map(self._make, range(self.size))

    def by_id(self, product: str) -> Product:
        """The product with that id."""
        return self.product(int(product[1:]))

    def product(self, number: int) -> Product:
        """Product `number`, 0 <= number < size, in constant time; the last few thousand are cached."""
        return self._cached(number)

    def of_type(self, kind: str) -> Iterator[Product]:
        """The products of a type, in catalogue order."""
        return map(self._make, self.numbers(kind))

    def first_ids(self, kinds: Iterable[str], count: int) -> list[str]:
        """The ids of the first products of any of these types, in catalogue order."""
        numbers = sorted(number for kind in kinds for number in self.numbers(kind)[:count])
        return [f"p{number:07d}" for number in numbers[:count]]

    def numbers(self, kind: str) -> range:
        """The numbers of the products of a type."""
        return range(self._numbers[kind], self.size, len(self._types))

    def _make(self, number: int) -> Product:
        variant, type_index = divmod(number, len(self._types))
        kind = self._types[type_index]
        shared = Random(f"{self._seed} family {type_index} {variant // FAMILY_SIZE}")
        single = Random(f"{self._seed} product {number}")
        brand, line = shared.choice(kind.brands), shared.choice(self._lines)
        model = shared.randrange(110, 990, 10)
        facts = {"brand": brand.lower(), "line": line.lower(), "sku": f"{brand[:2].upper()}{number:07d}"}
        facts.update(self._facts(kind, shared, single))
        return Product(
            id=f"p{number:07d}",
            type=kind.name,
            family=f"{kind.name} {brand} {line} {model}".lower().replace(" ", "-"),
            facts=facts,
            model=model,
            feature=shared.choice(kind.features),
        )

    def _facts(self, kind: ProductType, shared: Random, single: Random) -> dict[str, str]:
        """A value for each attribute, shared ones first: they exclude values of the others."""
        attributes = [self._tables.attributes[name] for name in kind.attributes]
        facts: dict[str, str] = {}
        excluded: list[str] = []
        for attribute in sorted(attributes, key=lambda attribute: not attribute.shared):
            values = self._values[attribute.name]
            if excluded:
                values = [value for value in values if value not in excluded]
            value = (shared if attribute.shared else single).choice(values)
            excluded += attribute.never_with.get(value, ())
            facts[attribute.name] = value
        return facts


def document(product: Product, tables: Tables) -> dict[str, str]:
    """The product as a document: `id`, `title` and `text` in catalogue language."""
    kind = tables.types[product.type]
    brand, line = product.facts["brand"].title(), product.facts["line"].title()
    values = ", ".join(product.facts[name] for name in kind.attributes)
    text = (
        f"{kind.name.capitalize()}: {values}. {product.feature} "
        f"Goes well with our {kind.goes_with[0]}. Article {product.facts['sku']}."
    )
    return {"id": product.id, "title": f"{brand} {line} {product.model} {kind.name}", "text": text}
