"""Graded judgments by construction, in the four ESCI grades.

exact 3: a product of the type asked for that has every fact asked for.
substitute 2: a product of the type asked for that misses exactly one of them.
complement 1: a product of a type that goes with the one asked for.
irrelevant 0: every other product; these are not listed.

A query lists at most as many products of a grade as `CAPS` says: the first in the order of the catalogue. So in a
large shop there are exact matches that no line lists; `Judge.capped` counts the queries concerned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from searchlora.records import Judgment
from searchlora.shop.catalogue import Product
from searchlora.shop.needs import Need
from searchlora.shop.tables import Tables

EXACT, SUBSTITUTE, COMPLEMENT, IRRELEVANT = 3, 2, 1, 0

#: Grade -> the most products of this grade that a query lists.
CAPS = {EXACT: 60, SUBSTITUTE: 40, COMPLEMENT: 20}


def grade(product: Product, need: Need, tables: Tables) -> int:
    """The grade of one product for one need, as a `Judge` gives it."""
    if product.type == need.type:
        missed = sum(product.facts[name] != value for name, value in need.facts.items())
        return {0: EXACT, 1: SUBSTITUTE}.get(missed, IRRELEVANT)
    return COMPLEMENT if product.type in tables.types[need.type].goes_with else IRRELEVANT


class Judge:
    """Grades a stream of products for all topics at once. Memory: at most the sum of `CAPS` ids for each topic.

    Args:
        topics: Record id and need, in the order in which the judgments are to be written.
    """

    def __init__(self, topics: Sequence[tuple[str, Need]], tables: Tables) -> None:
        self._topics = topics
        self._found: list[dict[int, list[str]]] = [{grade: [] for grade in CAPS} for _ in topics]
        self._overfull: set[int] = set()
        self._by_type: dict[str, list[tuple[int, Mapping[str, str]]]] = defaultdict(list)
        self._complements: dict[str, list[int]] = defaultdict(list)
        for place, (_, need) in enumerate(topics):
            self._by_type[need.type].append((place, need.facts))
            for other in tables.types[need.type].goes_with:
                self._complements[other].append(place)

    @property
    def capped(self) -> int:
        """Topics with more exact matches than are listed."""
        return len(self._overfull)

    def see(self, product: Product) -> None:
        """Grade one more product."""
        for place, facts in self._by_type[product.type]:
            missed = 0
            for name, value in facts.items():
                if product.facts[name] != value:
                    missed += 1
                    if missed > 1:
                        break
            if missed <= 1:
                self._add(place, SUBSTITUTE if missed else EXACT, product.id)
        waiting = self._complements[product.type]
        for place in waiting:
            self._add(place, COMPLEMENT, product.id)
        if waiting and len(self._found[waiting[0]][COMPLEMENT]) >= CAPS[COMPLEMENT]:
            # Topics that wait for the same type fill up at nearly the same time.
            self._complements[product.type] = [p for p in waiting if len(self._found[p][COMPLEMENT]) < CAPS[COMPLEMENT]]

    def judgments(self) -> Iterator[Judgment]:
        """Topic by topic, best grade first, then in the order of the catalogue."""
        for (topic, _), found in zip(self._topics, self._found, strict=True):
            for grade, products in found.items():
                yield from (Judgment(topic, product, grade) for product in products)

    def listed(self) -> Iterator[tuple[Need, Mapping[int, Sequence[str]]]]:
        """For every topic, in order: its need, and grade -> ids of the products listed."""
        for (_, need), found in zip(self._topics, self._found, strict=True):
            yield need, found

    def _add(self, place: int, grade: int, product: str) -> None:
        products = self._found[place][grade]
        if len(products) < CAPS[grade]:
            products.append(product)
        elif grade == EXACT:
            self._overfull.add(place)
