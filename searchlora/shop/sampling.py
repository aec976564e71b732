"""Needs of shoppers, and deterministic assignment of products, needs and topics to splits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from searchlora.eval.text_identity import words
from searchlora.shop.catalogue import Catalogue, Product

#: Split -> share of the product families, of the topics and of the rows, in per cent.
SPLITS = {"train": 70, "validation": 10, "test": 20}

#: Facts that identify products rather than describe them.
IDENTIFYING_FACTS = ("brand", "line", "sku")


def portions(total: int, shares: Mapping[str, int]) -> dict[str, int]:
    """Divide `total` by shares in per cent, rounded down; the remainder goes to the first name.

    Examples:
        >>> portions(25, {"train": 70, "validation": 10, "test": 20})
        {'train': 18, 'validation': 2, 'test': 5}
    """
    divided = {name: total * share // 100 for name, share in shares.items()}
    divided[next(iter(shares))] += total - sum(divided.values())
    return divided


def deal(topics: Iterable[str], *, seed: str) -> dict[str, list[str]]:
    """Divide topics among the splits at random; the shares of validation and test are rounded up."""
    shuffled = list(topics)
    Random(seed).shuffle(shuffled)
    total = len(shuffled)
    dealt: dict[str, list[str]] = {}
    for split in ("test", "validation"):
        count = math.ceil(total * SPLITS[split] / 100)
        dealt[split], shuffled = shuffled[:count], shuffled[count:]
    return {"train": shuffled, **dealt}


def word_bag(*texts: str) -> tuple[str, ...]:
    """The sorted words of texts in lower case, without punctuation: the key by which duplicates are detected."""
    return tuple(sorted(words(" ".join(texts))))


def distinct(
    write: Callable[[], Iterable[dict[str, Any]]],
    quota: int,
    seen: set[tuple[str, ...]],
    query: str = "query",
    patience: int = 500,
) -> list[dict[str, Any]]:
    """Draw at most `quota` rows whose visible words differ from each other and from those in `seen`.

    Args:
        write: Draws rows, or none.
        seen: Word bags of the turns and the query of earlier rows; the new ones are added.
        query: The field of the query.
        patience: Consecutive draws without a new row after which the writer counts as exhausted.
    """
    rows: list[dict[str, Any]] = []
    idle = 0
    while len(rows) < quota and idle < patience:
        bags = {word_bag(*(turn["text"] for turn in row.get("history", ())), row[query]): row for row in write()}
        new = [bag for bag in bags if bag not in seen][: quota - len(rows)]
        idle = 0 if new else idle + 1
        seen.update(new)
        rows += [bags[bag] for bag in new]
    return rows


@dataclass(frozen=True)
class Need:
    """A product type and the requested facts; a product that has all of them is an exact match."""

    type: str
    facts: Mapping[str, str]

    @property
    def by_attributes(self) -> bool:
        """Whether it requests more than brand, line or an article number."""
        return any(name not in IDENTIFYING_FACTS for name in self.facts)

    @property
    def combination(self) -> str:
        """The product type and its requested attribute values, without brand, line and article number."""
        facts = sorted(fact for fact in self.facts.items() if fact[0] not in IDENTIFYING_FACTS)
        return f"{self.type}: {facts}"


class Sampler:
    """Draws products and needs of one split.

    A product belongs to the split of its family, a need to the split of its combination. A hash decides both, so
    memory does not grow with the shop.
    """

    def __init__(self, catalogue: Catalogue, *, seed: int) -> None:
        self._catalogue = catalogue
        self._seed = seed

    def product(self, split: str, rng: Random) -> Product:
        """A random product whose family is in the split."""
        while True:
            product = self._catalogue.product(rng.randrange(len(self._catalogue)))
            if self.split_of(product.family) == split:
                return product

    def select(self, products: Sequence[str], split: str, rng: Random, *, limit: int) -> list[Product]:
        """At most `limit` of these product ids whose family is in the split, in random order."""
        selected: list[Product] = []
        for name in rng.sample(products, len(products)):
            if len(selected) == limit:
                break
            product = self._catalogue.by_id(name)
            if self.split_of(product.family) == split:
                selected.append(product)
        return selected

    def product_of_type(self, kind: str, split: str, rng: Random, *, tries: int = 12) -> Product | None:
        """A random product of that type whose family is in the split, or None after `tries` failed draws."""
        for _ in range(tries):
            product = self._catalogue.product(rng.choice(self._catalogue.numbers(kind)))
            if self.split_of(product.family) == split:
                return product
        return None

    def need(self, product: Product, names: Iterable[str], split: str) -> Need | None:
        """The need for these facts of a product; None when its combination belongs to another split."""
        need = Need(product.type, {name: product.facts[name] for name in names})
        return need if not need.by_attributes or self.split_of(need.combination) == split else None

    def split_of(self, key: str) -> str:
        """The split of a product family, a combination, or any other key."""
        digest = hashlib.sha256(f"{self._seed} {key}".encode()).digest()
        percentile = int.from_bytes(digest[:4], "big") % 100
        for split, share in SPLITS.items():
            if percentile < share:
                return split
            percentile -= share
        raise AssertionError("the shares of the splits do not add up to 100")  # pragma: no cover
