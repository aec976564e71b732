"""Needs of shoppers, and deterministic assignment of products, needs and topics to splits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from random import Random
from typing import Any

from searchlora.errors import DataError
from searchlora.eval.text_identity import words
from searchlora.shop.catalogue import Product

#: Split -> share of the product families, of the topics and of the rows, in per cent.
SPLITS = {"train": 70, "validation": 10, "test": 20}

#: Facts that identify products rather than describe them.
IDENTIFYING_FACTS = ("brand", "line", "sku")


def portions(total: int, shares: Mapping[str, int]) -> dict[str, int]:
    """Divide `total` by shares in per cent, rounded down; the remainder goes to the first name."""
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


def draw_rows(
    write: Callable[[str, str, Random], Iterable[dict[str, Any]]],
    total: int,
    shares: Callable[[str], Mapping[str, int]],
    *,
    seed: str,
    query: str = "query",
    patience: int = 500,
    rest: str | None = None,
    complete: bool = False,
) -> list[dict[str, Any]]:
    """At most `total` rows: train, then validation, then test, shuffled within each; no two have the same words.

    Args:
        write: Draws rows of a kind for a split, or none.
        shares: Split -> share of the rows of each kind, in per cent.
        query: The field of the query.
        patience: Draws without a new row after which a kind counts as exhausted.
        rest: The kind that is drawn last, and takes what exhausted kinds leave.
        complete: Raise `DataError` for an exhausted kind.
    """
    seen: set[tuple[str, ...]] = set()
    rows: list[dict[str, Any]] = []
    for split, count in portions(total, SPLITS).items():
        rng = Random(f"{seed}{split}")
        mixed: list[dict[str, Any]] = []
        quotas = portions(count, shares(split))
        for kind in sorted(quotas, key=lambda kind: kind == rest):
            quota = count - len(mixed) if kind == rest else quotas[kind]
            drawn = _distinct(partial(write, kind, split, rng), quota, seen, query, patience)
            if complete and len(drawn) < quota:
                raise DataError(
                    f"the shop is too small: it has only {len(drawn)} different queries of kind '{kind}' in {split}",
                    fix="Ask for fewer queries or more products.",
                )
            mixed += drawn
        rng.shuffle(mixed)
        rows += mixed
    return rows


def _distinct(
    write: Callable[[], Iterable[dict[str, Any]]], quota: int, seen: set[tuple[str, ...]], query: str, patience: int
) -> list[dict[str, Any]]:
    """At most `quota` rows whose words differ from each other and from those in `seen`, to which they are added."""
    rows: list[dict[str, Any]] = []
    idle = 0
    while len(rows) < quota and idle < patience:
        bags = {_word_bag(*(turn["text"] for turn in row.get("history", ())), row[query]): row for row in write()}
        new = [bag for bag in bags if bag not in seen][: quota - len(rows)]
        idle = 0 if new else idle + 1
        seen.update(new)
        rows += [bags[bag] for bag in new]
    return rows


def _word_bag(*texts: str) -> tuple[str, ...]:
    return tuple(sorted(words(" ".join(texts))))


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

    A product belongs to the split of its family, a need to the split of its combination; a hash decides both.

    Attributes:
        of_type: Product type -> its products, in catalogue order.
    """

    def __init__(self, catalogue: Sequence[Product], *, seed: int) -> None:
        self._catalogue = catalogue
        self._seed = seed
        self.of_type: dict[str, list[Product]] = {}
        for product in catalogue:
            self.of_type.setdefault(product.type, []).append(product)

    def product(self, split: str, rng: Random) -> Product:
        """A random product whose family is in the split."""
        while True:
            product = self._catalogue[rng.randrange(len(self._catalogue))]
            if self.split_of(product.family) == split:
                return product

    def select(self, products: Sequence[Product], split: str, rng: Random, *, limit: int) -> list[Product]:
        """At most `limit` of these products whose family is in the split, in random order."""
        shuffled = rng.sample(products, len(products))
        return [product for product in shuffled if self.split_of(product.family) == split][:limit]

    def product_of_type(self, kind: str, split: str, rng: Random, *, tries: int = 12) -> Product | None:
        """A random product of that type whose family is in the split, or None after `tries` failed draws."""
        for _ in range(tries):
            product = rng.choice(self.of_type[kind])
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
        return next(split for split, end in zip(SPLITS, accumulate(SPLITS.values()), strict=True) if percentile < end)
