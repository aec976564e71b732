from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from searchlora.shop.catalogue import Catalogue
from searchlora.shop.tables import load_tables
from tests.shop.reading import only_in_one, rows_of, splits_of

TABLES = load_tables()
Rows = list[dict[str, Any]]
Qrels = dict[str, dict[str, int]]


@pytest.fixture(scope="module")
def training(shop: Path) -> Rows:
    return rows_of(shop / "embedding.jsonl")


@pytest.fixture(scope="module")
def titles(shop: Path) -> Rows:
    return rows_of(shop / "categories.jsonl")


@pytest.fixture(scope="module")
def texts(corpus: list[dict[str, str]]) -> dict[str, str]:
    """Searchable text of a product -> its id."""
    return {f"{product['title']} {product['text']}": product["id"] for product in corpus}


def test_every_standalone_query_has_a_training_pair(training: Rows, records: Rows):
    alone = [record for record in records if not record["history"]]
    assert [row["id"] for row in training] == [record["id"] for record in alone]
    for row, record in zip(training, alone, strict=True):
        assert all(row[name] == record[name] for name in ("query", "split", "kind"))


def test_positives_are_exact_and_negatives_are_not(training: Rows, qrels: Qrels, texts: dict[str, str]):
    for row in training:
        judged = qrels[row["id"]]
        assert texts[row["positive"]] == row["document"]
        assert judged[row["document"]] == 3
        assert all(judged.get(texts[negative], 0) in (0, 2) for negative in row["negatives"])
        assert len(set(row["negatives"])) == len(row["negatives"]) <= 2


def test_negatives_are_hard_and_there_are_many(training: Rows):
    counts = Counter(len(row["negatives"]) for row in training)
    assert counts[2] > 0.8 * len(training)
    catalogue = {product.id: product.type for product in Catalogue(TABLES, size=2000, seed=13)}
    for row in training:
        kind = catalogue[row["document"]]
        assert all(f" {kind.capitalize()}: " in negative for negative in row["negatives"])


def test_needs_and_products_are_in_one_split(training: Rows, texts: dict[str, str]):
    assert only_in_one(splits_of(training, lambda row: [row["group"]]))
    assert only_in_one(splits_of(training, lambda row: [texts[text] for text in (row["positive"], *row["negatives"])]))


def test_titles_are_in_the_split_of_their_family(titles: Rows, training: Rows, corpus: Rows):
    assert len({title["id"] for title in titles}) == len(titles) == 1200
    assert {title["id"] for title in titles} <= {product["id"] for product in corpus}
    assert only_in_one(splits_of(titles, lambda title: [title["group"]]))
    assert only_in_one(splits_of(titles, lambda title: [title["title"]]))
    # A family is in one split over all files.
    products = {title["id"]: title["split"] for title in titles}
    both = [row for row in training if row["document"] in products]
    assert len(both) > 300
    assert all(products[row["document"]] == row["split"] for row in both)


def test_titles_have_the_category_of_the_product(titles: Rows):
    catalogue = {product.id: product.type for product in Catalogue(TABLES, size=2000, seed=13)}
    assert all(title["category"] == TABLES.types[catalogue[title["id"]]].category for title in titles)
    assert {title["category"] for title in titles if title["split"] == "test"} == {
        kind.category for kind in TABLES.types.values()
    }


def test_the_type_is_mostly_not_in_the_title_and_unseen_words_are_in_test_only(titles: Rows):
    catalogue = {product.id: product.type for product in Catalogue(TABLES, size=2000, seed=13)}
    named = [title for title in titles if title["title"].endswith(catalogue[title["id"]])]
    assert len(named) < 0.3 * len(titles)
    unseen = [word for kind in TABLES.types.values() for word in kind.words.unseen]
    splits = {title["split"] for title in titles if any(f" {word}" in title["title"] for word in unseen)}
    assert splits == {"test"}


@pytest.mark.slow
def test_shops_of_any_seed_fill_every_file(tmp_path: Path):
    from searchlora.shop import make_shop

    for seed in (1, 2, 3):
        folder = tmp_path / str(seed)
        make_shop(folder, products=600, queries=100, seed=seed)
        for name in ("intent", "judgment", "embedding", "categories", "rag_answer"):
            rows = rows_of(folder / f"{name}.jsonl")
            assert {row["split"] for row in rows} == {"train", "validation", "test"}, (seed, name)
            assert all(row["id"] and row["group"] for row in rows)
