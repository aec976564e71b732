"""Graded judgments by construction in the four ESCI grades, and the query-product pairs made from them.

* exact 3: a product of the requested type that has every requested fact.
* substitute 2: a product of the requested type that lacks exactly one of them.
* complement 1: a product of a type that goes with the requested one.
* irrelevant 0: every other product; these are not listed.

A query lists at most `CAPS[grade]` products of a grade: the first ones in catalogue order. So a large shop has exact
matches that are not listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from searchlora.records import Document
from searchlora.shop.catalogue import Product, document
from searchlora.shop.sampling import SPLITS, Need, Sampler, portions
from searchlora.shop.tables import Tables

EXACT, SUBSTITUTE, COMPLEMENT, IRRELEVANT = 3, 2, 1, 0

#: Grade -> maximum number of products of this grade that a query lists.
CAPS = {EXACT: 60, SUBSTITUTE: 40, COMPLEMENT: 20}

#: Grade -> maximum number of pairs of a query. The first irrelevant product is of the requested type and lacks two
#: facts or more, if there is one; the others are of another type, mostly of the same category.
MAX_PAIRS = {EXACT: 2, SUBSTITUTE: 2, COMPLEMENT: 1, IRRELEVANT: 2}

#: One query in this many is judged.
QUERIES_PER_JUDGED = 4

#: Maximum number of negatives of a training pair.
MAX_NEGATIVES = 2

_SAME_CATEGORY = 0.7
_TRIES = 20

#: A record of `rewriting.jsonl`, its need, and grade -> products listed in `qrels.txt`.
Topic = tuple[Mapping[str, Any], Need, Mapping[int, Sequence[Product]]]


def grade(product: Product, need: Need, tables: Tables) -> int:
    """The grade of a product for a need."""
    if product.type == need.type:
        return {0: EXACT, 1: SUBSTITUTE}.get(_missed(product, need), IRRELEVANT)
    return COMPLEMENT if product.type in tables.types[need.type].goes_with else IRRELEVANT


def _missed(product: Product, need: Need) -> int:
    return sum(product.facts[name] != value for name, value in need.facts.items())


def matching_products(need: Need, sampler: Sampler, tables: Tables) -> dict[int, list[Product]]:
    """Grade -> the products of this grade, in catalogue order, of which `CAPS[grade]` are listed."""
    by_grade: dict[int, list[Product]] = {EXACT: [], SUBSTITUTE: []}
    for product in sampler.of_type[need.type]:
        missed = _missed(product, need)
        if missed < 2:
            by_grade[SUBSTITUTE if missed else EXACT].append(product)
    complements = [product for kind in tables.types[need.type].goes_with for product in sampler.of_type[kind]]
    return {**by_grade, COMPLEMENT: sorted(complements, key=lambda product: product.id)}


def judged_pairs(topics: Iterable[Topic], writer: PairWriter, *, queries: int) -> Iterator[dict[str, Any]]:
    """The rows of `judgment.jsonl`: all pairs of one in `QUERIES_PER_JUDGED` queries, in the usual split shares."""
    left = portions(queries // QUERIES_PER_JUDGED, SPLITS)
    for record, need, listed in topics:
        split = str(record["split"])
        if left[split] and not record["history"]:
            left[split] -= 1
            yield from writer.judged(record, need, listed)


def training_pairs(topics: Iterable[Topic], writer: PairWriter) -> Iterator[dict[str, Any]]:
    """The rows of `embedding.jsonl`: one for each stand-alone query, with its id in `qrels.txt`."""
    for record, need, listed in topics:
        if not record["history"]:
            row = writer.training(record, need, listed)
            if row:
                yield row


class PairWriter:
    """Draws the products that are paired with a query.

    All of them are of families in the split of the query, so training data holds no product of a test row.
    """

    def __init__(self, sampler: Sampler, tables: Tables, *, seed: int) -> None:
        self._tables = tables
        self._sampler = sampler
        self._seed = seed
        self._shelves: dict[str, list[str]] = {}
        for kind in tables.types.values():
            self._shelves.setdefault(kind.category, []).append(kind.name)

    def judged(
        self, record: Mapping[str, Any], need: Need, listed: Mapping[int, Sequence[Product]]
    ) -> list[dict[str, Any]]:
        """All rows of one query, shuffled."""
        rng = Random(f"{self._seed} judged {record['id']}")
        split = str(record["split"])
        products = [
            product
            for value in (EXACT, SUBSTITUTE, COMPLEMENT)
            for product in self._sampler.select(listed[value], split, rng, limit=MAX_PAIRS[value])
        ]
        products += self._irrelevant(need, split, rng)
        rng.shuffle(products)
        return [self._pair(record, product, need) for product in products]

    def training(
        self, record: Mapping[str, Any], need: Need, listed: Mapping[int, Sequence[Product]]
    ) -> dict[str, Any] | None:
        """A query with an exact match, and products of the type that lack a requested fact as negatives.

        None when no listed exact match is in the split.
        """
        rng = Random(f"{self._seed} training {record['id']}")
        split = str(record["split"])
        positives = self._sampler.select(listed[EXACT], split, rng, limit=1)
        if not positives:
            return None
        hard = self._of_type(need.type, need, split, rng) if len(need.facts) > 1 else None
        negatives = self._sampler.select(listed[SUBSTITUTE], split, rng, limit=MAX_NEGATIVES - (hard is not None))
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
        fields = document(product, self._tables)
        return Document(fields["id"], fields["text"], fields["title"]).searchable

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
        irrelevant: dict[str, Product] = {}
        hard = self._of_type(need.type, need, split, rng) if len(need.facts) > 1 else None
        if hard:
            irrelevant[hard.id] = hard
        for _ in range(5 * _TRIES):
            if len(irrelevant) == MAX_PAIRS[IRRELEVANT]:
                break
            other = self._of_type(self._other_type(need, rng), need, split, rng)
            if other:
                irrelevant[other.id] = other
        return list(irrelevant.values())

    def _other_type(self, need: Need, rng: Random) -> str:
        shelf = self._shelves[self._tables.types[need.type].category]
        names = shelf if rng.random() < _SAME_CATEGORY else list(self._tables.types)
        return rng.choice([name for name in names if name != need.type])

    def _of_type(self, kind: str, need: Need, split: str, rng: Random) -> Product | None:
        """An irrelevant product of that type, or None when the draws yield none."""
        for _ in range(_TRIES):
            product = self._sampler.product_of_type(kind, split, rng, tries=1)
            if product is not None and grade(product, need, self._tables) == IRRELEVANT:
                return product
        return None
