"""Product catalogue of the shop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from searchlora.shop.tables import ProductType, Tables

#: Variants (colours, sizes) of one product family.
FAMILY_SIZE = 3


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


def make_catalogue(tables: Tables, *, size: int, seed: int) -> list[Product]:
    """`size` products that cycle through the product types; the same arguments give the same products."""
    types = list(tables.types.values())
    return [_product(number, types, tables, seed) for number in range(size)]


def _product(number: int, types: list[ProductType], tables: Tables, seed: int) -> Product:
    variant, type_index = divmod(number, len(types))
    kind = types[type_index]
    shared = Random(f"{seed} family {type_index} {variant // FAMILY_SIZE}")
    single = Random(f"{seed} product {number}")
    brand, line = shared.choice(kind.brands), shared.choice(tables.phrases["lines"])
    model = shared.randrange(110, 990, 10)
    facts = {"brand": brand.lower(), "line": line.lower(), "sku": f"{brand[:2].upper()}{number:07d}"}
    excluded: list[str] = []
    # Shared values exclude values of other attributes, so they are drawn first.
    attributes = [tables.attributes[name] for name in kind.attributes]
    for attribute in sorted(attributes, key=lambda attribute: not attribute.shared):
        values = [value for value in attribute.values if value not in excluded]
        value = (shared if attribute.shared else single).choice(values)
        excluded += attribute.never_with.get(value, ())
        facts[attribute.name] = value
    return Product(
        id=f"p{number:07d}",
        type=kind.name,
        family=f"{kind.name} {brand} {line} {model}".lower().replace(" ", "-"),
        facts=facts,
        model=model,
        feature=shared.choice(kind.features),
    )


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
