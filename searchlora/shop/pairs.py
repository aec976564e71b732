"""Pairs of a query and a product, for the judgment task and for training an encoder.

They are made for the queries of `rewriting.jsonl` that stand alone, from the same needs as `qrels.txt`, and agree with
it. Unlike there, every product of a pair is of a family of the query's own split, so that what is trained on a train
row never saw a product of a test row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from searchlora.records import Document
from searchlora.shop.catalogue import Catalogue, Product, document
from searchlora.shop.dealing import SPLITS, portions
from searchlora.shop.judgments import COMPLEMENT, EXACT, IRRELEVANT, SUBSTITUTE, grade
from searchlora.shop.needs import Need, Sampler
from searchlora.shop.tables import Tables

#: Grade -> the most pairs of a query. Of the irrelevant products the first is one of the type asked for, if there is
#: one that misses two facts or more; the others are of another type, mostly of the same category.
MOST = {EXACT: 2, SUBSTITUTE: 2, COMPLEMENT: 1, IRRELEVANT: 2}

#: One query in so many is judged.
JUDGED = 4

#: The most negatives of a training pair.
NEGATIVES = 2

_SAME_CATEGORY = 0.7
_TRIES = 20

#: A record of `rewriting.jsonl`, its need, and grade -> products that `qrels.txt` lists.
Topic = tuple[Mapping[str, Any], Need, Mapping[int, Sequence[str]]]


def judged_pairs(topics: Iterable[Topic], writer: PairWriter, *, queries: int) -> Iterator[dict[str, Any]]:
    """The rows of `judgment.jsonl`: all pairs of one in `JUDGED` of `queries`, shared among the splits as ever."""
    left = portions(queries // JUDGED, SPLITS)
    for record, need, listed in topics:
        split = str(record["split"])
        if left[split] and not record["history"]:
            left[split] -= 1
            yield from writer.judged(record, need, listed)


def training_pairs(topics: Iterable[Topic], writer: PairWriter) -> Iterator[dict[str, Any]]:
    """The rows of `embedding.jsonl`: one for every query that stands alone, with the id that it has in `qrels.txt`."""
    for record, need, listed in topics:
        if not record["history"]:
            row = writer.training(record, need, listed)
            if row:
                yield row


class PairWriter:
    """Draws the products that are set against a query."""

    def __init__(self, catalogue: Catalogue, tables: Tables, *, seed: int) -> None:
        self._tables = tables
        self._sampler = Sampler(catalogue, tables, seed=seed)
        self._seed = seed
        self._shelves: dict[str, list[str]] = {}
        for kind in tables.types.values():
            self._shelves.setdefault(kind.category, []).append(kind.name)

    def judged(
        self, record: Mapping[str, Any], need: Need, listed: Mapping[int, Sequence[str]]
    ) -> list[dict[str, Any]]:
        """All rows of one query, in an order that says nothing."""
        rng = Random(f"{self._seed} judged {record['id']}")
        split = str(record["split"])
        products = [
            product
            for value in (EXACT, SUBSTITUTE, COMPLEMENT)
            for product in self._sampler.listed(listed[value], split, rng, most=MOST[value])
        ]
        products += self._irrelevant(need, split, rng)
        rng.shuffle(products)
        return [self._pair(record, product, need) for product in products]

    def training(
        self, record: Mapping[str, Any], need: Need, listed: Mapping[int, Sequence[str]]
    ) -> dict[str, Any] | None:
        """A query with an exact match, and as negatives products of the type that lack something asked for.

        None where the list is too short to hold a product of the split.
        """
        rng = Random(f"{self._seed} training {record['id']}")
        split = str(record["split"])
        positives = self._sampler.listed(listed[EXACT], split, rng, most=1)
        if not positives:
            return None
        hard = self._of_type(need.type, need, split, rng) if len(need.facts) > 1 else None
        negatives = self._sampler.listed(listed[SUBSTITUTE], split, rng, most=NEGATIVES - (hard is not None))
        return {
            "id": record["id"],
            "group": need.combination if need.by_attributes else f"{need.type}: {need.facts['sku']}",
            "query": record["query"],
            "positive": self._searchable(positives[0]),
            "document": positives[0].id,
            "negatives": [self._searchable(product) for product in [*negatives, *([hard] if hard else [])]],
            "split": split,
            "kind": record["kind"],
        }

    def _searchable(self, product: Product) -> str:
        return Document(**document(product, self._tables)).searchable

    def _pair(self, record: Mapping[str, Any], product: Product, need: Need) -> dict[str, Any]:
        shown = document(product, self._tables)
        return {
            "id": f"{record['id']} {product.id}",
            "group": record["id"],
            "query": record["query"],
            "passage": shown["text"],
            "title": shown["title"],
            "grade": grade(product, need, self._tables),
            "split": record["split"],
            "kind": record["kind"],
        }

    def _irrelevant(self, need: Need, split: str, rng: Random) -> list[Product]:
        found: dict[str, Product] = {}
        hard = self._of_type(need.type, need, split, rng) if len(need.facts) > 1 else None
        if hard:
            found[hard.id] = hard
        for _ in range(5 * _TRIES):
            if len(found) == MOST[IRRELEVANT]:
                break
            other = self._of_type(self._other_type(need, rng), need, split, rng)
            if other:
                found[other.id] = other
        return list(found.values())

    def _other_type(self, need: Need, rng: Random) -> str:
        shelf = self._shelves[self._tables.types[need.type].category]
        names = shelf if rng.random() < _SAME_CATEGORY else list(self._tables.types)
        return rng.choice([name for name in names if name != need.type])

    def _of_type(self, kind: str, need: Need, split: str, rng: Random) -> Product | None:
        """An irrelevant product of that type, or None where this draw found none."""
        for _ in range(_TRIES):
            product = self._sampler.product_of_type(kind, split, rng, tries=1)
            if product is not None and grade(product, need, self._tables) == IRRELEVANT:
                return product
        return None
