"""What a shopper wants, and which split it belongs to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from searchlora.shop.catalogue import Catalogue, Product
from searchlora.shop.dealing import SPLITS
from searchlora.shop.tables import Tables

_WORD = re.compile(r"\w+")
_NAMES_OF_ONE_PRODUCT = ("brand", "line", "sku")


@dataclass(frozen=True)
class Need:
    """A product type and the facts asked for; a product that has them all is an exact match."""

    type: str
    facts: Mapping[str, str]

    @property
    def by_attributes(self) -> bool:
        """Whether it asks for more than brand, line or an article number."""
        return any(name not in _NAMES_OF_ONE_PRODUCT for name in self.facts)

    @property
    def combination(self) -> str:
        """The product type with its attribute values, brand and line left aside."""
        facts = sorted(fact for fact in self.facts.items() if fact[0] not in _NAMES_OF_ONE_PRODUCT)
        return f"{self.type}: {facts}"


class Sampler:
    """Draws products and needs of one split only.

    A product belongs to the split of its family, a need to the split of its combination; both are decided by a hash,
    so no split has to be kept in memory.
    """

    def __init__(self, catalogue: Catalogue, tables: Tables, *, seed: int) -> None:
        self._catalogue = catalogue
        self._types = list(tables.types)
        self._seed = seed

    def product(self, split: str, rng: Random) -> Product:
        """A product whose family is in the split."""
        while True:
            product = self._catalogue.product(rng.randrange(len(self._catalogue)))
            if self.split_of(product.family) == split:
                return product

    def listed(self, products: Sequence[str], split: str, rng: Random, *, most: int) -> list[Product]:
        """At most so many of these products whose family is in the split, drawn at random."""
        found: list[Product] = []
        for name in rng.sample(products, len(products)):
            if len(found) == most:
                break
            product = self._catalogue.by_id(name)
            if self.split_of(product.family) == split:
                found.append(product)
        return found

    def product_of_type(self, kind: str, split: str, rng: Random, *, tries: int = 12) -> Product | None:
        """A product of that type whose family is in the split, or None where none was found in so many tries."""
        numbers = range(self._types.index(kind), len(self._catalogue), len(self._types))
        for _ in range(tries):
            product = self._catalogue.product(rng.choice(numbers))
            if self.split_of(product.family) == split:
                return product
        return None

    def need(self, product: Product, names: Iterable[str], split: str) -> Need | None:
        """The need for a product with these facts of this one; None where that combination is in another split."""
        need = Need(product.type, {name: product.facts[name] for name in names})
        return need if not need.by_attributes or self.split_of(need.combination) == split else None

    def split_of(self, key: str) -> str:
        """The split of a product family, a combination, or whatever else is named by a key."""
        digest = hashlib.sha256(f"{self._seed} {key}".encode()).digest()
        place = int.from_bytes(digest[:4], "big") % 100
        for split, share in SPLITS.items():
            if place < share:
                return split
            place -= share
        raise AssertionError("the shares of the splits do not add up to 100")  # pragma: no cover


@dataclass(frozen=True)
class Draft:
    """A rewriting record without its id, and the need by which it is judged."""

    need: Need
    fields: Mapping[str, object]
    history: Sequence[Mapping[str, str]] = ()

    @property
    def shown(self) -> tuple[str, ...]:
        """The words of all that a rewriter sees, query and history, without order, case and punctuation."""
        texts = [*(turn["text"] for turn in self.history), str(self.fields["query"])]
        return tuple(sorted(_WORD.findall(" ".join(texts).lower())))


def draft(
    need: Need,
    *,
    group: str,
    split: str,
    kind: str,
    query: str,
    rewrite: str,
    history: Sequence[Mapping[str, str]] = (),
    **more: object,
) -> Draft:
    """A draft with the fields that follow from the others: `needs_rewrite`, and `protected`.

    Protected are the words of the query that the rewrite keeps and that no synonym can replace: brand, line, article
    number and every word with a digit in it.
    """
    names = {need.facts[name] for name in _NAMES_OF_ONE_PRODUCT if name in need.facts}
    kept = set(rewrite.split())
    protected = [
        word for word in query.split() if word in kept and (word in names or any(letter.isdigit() for letter in word))
    ]
    return Draft(
        need,
        {
            "group": group,
            "query": query,
            "history": list(history),
            "rewrite": rewrite,
            "needs_rewrite": query != rewrite,
            "protected": protected,
            "split": split,
            "kind": kind,
            **more,
        },
        history,
    )
