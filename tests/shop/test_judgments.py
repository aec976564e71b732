from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import bm25s
import ir_measures
import pytest

from searchlora.shop import dictionary_rewrite, make_shop
from searchlora.shop.catalogue import Catalogue
from searchlora.shop.judgments import CAPS, Judge
from searchlora.shop.sampling import Need
from searchlora.shop.tables import load_tables

TABLES = load_tables()
Records = list[dict[str, Any]]
Qrels = dict[str, dict[str, int]]


def test_grades_follow_the_construction():
    catalogue = Catalogue(TABLES, size=3000, seed=5)
    tent = next(product for product in catalogue if product.type == "dome tent")
    need = Need("dome tent", {name: tent.facts[name] for name in ("colour", "tent_capacity")})
    judge = Judge([("q1", need)], TABLES)
    for product in catalogue:
        judge.see(product)
    grades = {judgment.document: judgment.grade for judgment in judge.judgments()}
    assert grades[tent.id] == 3
    for product in catalogue:
        if product.type == "dome tent":
            missed = sum(product.facts[name] != value for name, value in need.facts.items())
            assert grades.get(product.id, 0) == {0: 3, 1: 2}.get(missed, 0)
        elif product.type not in TABLES.types["dome tent"].goes_with:
            assert product.id not in grades


def test_small_shops_list_every_exact_match(records: Records, qrels: Qrels, corpus: list[dict[str, str]]):
    assert set(qrels) == {record["id"] for record in records}
    assert all(max(grades.values()) == 3 for grades in qrels.values())
    assert {grade for grades in qrels.values() for grade in grades.values()} == {1, 2, 3}
    assert {document for grades in qrels.values() for document in grades} <= {product["id"] for product in corpus}


@pytest.mark.slow
def test_truncated_lists_follow_catalogue_order(tmp_path: Path):
    card = make_shop(tmp_path / "shop", products=30_000, queries=100)
    assert card.capped_queries > 0
    per_topic: dict[str, list[tuple[int, str]]] = {}
    for line in (tmp_path / "shop" / "qrels.txt").read_text().splitlines():
        topic, _, document, grade = line.split()
        per_topic.setdefault(topic, []).append((int(grade), document))
    for judged in per_topic.values():
        assert judged == sorted(judged, key=lambda each: (-each[0], each[1]))
        counts = Counter(grade for grade, _ in judged)
        assert all(counts[grade] <= cap for grade, cap in CAPS.items())


@pytest.mark.slow
def test_reference_rewrites_beat_the_dictionary_and_the_raw_query(
    records: Records, corpus: list[dict[str, str]], qrels: Qrels, vocabulary: dict[str, str]
):
    index = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
    index.index(_tokens([f"{each['title']} {each['text']}" for each in corpus]), show_progress=False)
    test = [record for record in records if record["split"] == "test"]

    def ndcg(queries: list[str]) -> float:
        found, scores = index.retrieve(_tokens(queries), k=10, show_progress=False)
        run = {
            record["id"]: {corpus[place]["id"]: float(score) for place, score in zip(row, points, strict=True)}
            for record, row, points in zip(test, found, scores, strict=True)
        }
        judged = {record["id"]: qrels[record["id"]] for record in test}
        return float(ir_measures.calc_aggregate([ir_measures.nDCG @ 10], judged, run)[ir_measures.nDCG @ 10])

    raw = ndcg([record["query"] for record in test])
    looked_up = ndcg([dictionary_rewrite(record["query"], vocabulary) for record in test])
    rewritten = ndcg([record["rewrite"] for record in test])
    assert 0.25 < raw < 0.45
    assert raw + 0.1 < looked_up < rewritten - 0.15
    assert rewritten > 0.8


def _tokens(texts: list[str]) -> Any:
    return bm25s.tokenize(texts, stopwords="en", show_progress=False)


@pytest.mark.parametrize("kind", ["ambiguous", "misspelling", "conversation"])
def test_the_dictionary_cannot_resolve_ambiguity_and_context(records: Records, vocabulary: dict[str, str], kind: str):
    rows = [record for record in records if record["kind"] == kind and record["needs_rewrite"]]
    solved = sum(dictionary_rewrite(record["query"], vocabulary) == record["rewrite"] for record in rows)
    assert solved < 0.1 * len(rows)
