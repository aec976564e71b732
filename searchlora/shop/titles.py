"""Titles of products as suppliers write them, to be sorted into the shop's categories.

The catalogue's own titles all end in the product type, which would make a category a matter of looking it up. Here the
type is mostly named in a shopper's word, in test also in one marked unseen, and some values follow.
"""

from __future__ import annotations

from random import Random

from searchlora.shop.catalogue import Catalogue, Product
from searchlora.shop.needs import Sampler
from searchlora.shop.tables import Tables
from searchlora.shop.wording import said

_CATALOGUE_TERM = 0.25


def make_titles(catalogue: Catalogue, tables: Tables, *, total: int, seed: int) -> list[dict[str, str]]:
    """The rows of `categories.jsonl`: `total` products at most, each once, in the splits of their families."""
    sampler = Sampler(catalogue, tables, seed=seed)
    rng = Random(f"{seed} titles")
    numbers = rng.sample(range(len(catalogue)), min(total, len(catalogue)))
    return [_row(catalogue.product(number), sampler, tables, rng) for number in numbers]


def _row(product: Product, sampler: Sampler, tables: Tables, rng: Random) -> dict[str, str]:
    split = sampler.split_of(product.family)
    kind = tables.types[product.type]
    noun = (
        kind.name
        if rng.random() < _CATALOGUE_TERM
        else rng.choice(said(kind.words.words, kind.words.unseen, split=split))
    )
    named = [f"{product.facts['brand'].title()} {product.facts['line'].title()} {product.model} {noun}"]
    for name in rng.sample(list(kind.attributes), rng.randrange(min(3, len(kind.attributes) + 1))):
        value = product.facts[name]
        words = tables.attributes[name].values[value]
        named.append(rng.choice([value, *said(words.words, words.unseen, split=split)]))
    return {
        "id": product.id,
        "group": product.family,
        "title": ", ".join(named),
        "category": kind.category,
        "split": split,
    }
