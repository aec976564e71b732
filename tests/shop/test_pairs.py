from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.shop.catalogue import Catalogue
from searchlora.shop.judgments import Judge, grade
from searchlora.shop.sampling import Need
from searchlora.shop.tables import load_tables
from tests.shop.reading import only_in_one, rows_of, splits_of

TABLES = load_tables()
Rows = list[dict[str, Any]]
Qrels = dict[str, dict[str, int]]


@pytest.fixture(scope="module")
def pairs(shop: Path) -> Rows:
    return rows_of(shop / "judgment.jsonl")


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.integers(1, 3), st.randoms(use_true_random=False))
def test_grades_equal_those_of_the_grading_function(number: int, facts: int, rng: Any):
    catalogue = Catalogue(TABLES, size=1000, seed=3)
    product = catalogue.product(number)
    need = Need(product.type, {name: product.facts[name] for name in rng.sample(sorted(product.facts), facts)})
    judge = Judge([("q1", need)], TABLES)
    for each in catalogue:
        judge.see(each)
    listed = {judgment.document: judgment.grade for judgment in judge.judgments()}
    assert {each.id: grade(each, need, TABLES) for each in catalogue if grade(each, need, TABLES)} == listed


def test_grades_agree_with_the_qrels(pairs: Rows, qrels: Qrels):
    for row in pairs:
        topic, product = row["id"].split(" ")
        assert row["grade"] == qrels[topic].get(product, 0), row


def test_pairs_contain_query_and_product_text(pairs: Rows, records: Rows, corpus: list[dict[str, str]]):
    asked = {record["id"]: record for record in records}
    products = {product["id"]: product for product in corpus}
    assert len({row["id"] for row in pairs}) == len(pairs)
    for row in pairs:
        topic, product = row["id"].split(" ")
        assert row["group"] == topic
        assert [row[name] for name in ("query", "split", "kind")] == [
            asked[topic][name] for name in ("query", "split", "kind")
        ]
        assert (row["title"], row["passage"]) == (products[product]["title"], products[product]["text"])
        assert asked[topic]["history"] == []


def test_grades_are_balanced_and_every_query_has_an_exact_match(pairs: Rows):
    assert 3000 < len(pairs) < 4500
    for split in ("train", "test"):
        counts = Counter(row["grade"] for row in pairs if row["split"] == split)
        assert min(counts.values()) > 0.1 * counts.total() and max(counts.values()) < 0.4 * counts.total()
    of_query: dict[str, list[int]] = defaultdict(list)
    for row in pairs:
        of_query[row["group"]].append(row["grade"])
    assert len(of_query) == 600
    assert all(3 in grades and 0 in grades for grades in of_query.values())


def test_some_irrelevant_products_are_hard(pairs: Rows):
    wrong = [row for row in pairs if row["grade"] == 0]
    exact = {row["group"]: row["passage"].split(":")[0] for row in pairs if row["grade"] == 3}
    same_type = [row for row in wrong if row["passage"].split(":")[0] == exact[row["group"]]]
    category = {kind.name.capitalize(): kind.category for kind in TABLES.types.values()}
    same_category = [row for row in wrong if category[row["passage"].split(":")[0]] == category[exact[row["group"]]]]
    assert len(same_type) > 0.15 * len(wrong)
    assert len(same_category) > 0.6 * len(wrong)


def test_file_position_does_not_reveal_the_grade(pairs: Rows):
    first: dict[str, int] = {}
    for row in pairs:
        first.setdefault(row["group"], row["grade"])
    assert max(Counter(first.values()).values()) < 0.45 * len(first)


def test_queries_and_products_are_in_one_split(pairs: Rows):
    assert only_in_one(splits_of(pairs, lambda row: [row["group"]]))
    assert only_in_one(splits_of(pairs, lambda row: [row["id"].split(" ")[1]]))
    # Variants of one family share their title.
    assert only_in_one(splits_of(pairs, lambda row: [row["title"]]))
