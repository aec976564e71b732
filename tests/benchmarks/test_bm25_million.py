"""The benchmark of large BM25 indexes, on a few documents: the made collection, and figures of every process."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from itertools import islice

import pytest

from benchmarks.bm25_million import __main__ as benchmark
from benchmarks.bm25_million.corpus import CHUNK, FREQUENT, WORDS, documents, queries, word


def test_words_are_different_and_no_stop_words():
    made = [word(rank) for rank in range(20_000)]
    assert len(set(made)) == len(made) and min(map(len, made)) >= 4
    assert len({word(WORDS - 1), word(WORDS - 2), *made}) == len(made) + 2


@pytest.mark.slow
def test_documents_are_repeatable_and_follow_zipfs_law():
    few = list(documents(300))
    assert few == list(islice(documents(CHUNK + 5), 300)) and len({each.id for each in few}) == 300
    assert [each.text for each in few] != [each.text for each in documents(300, seed=1)]
    counts = Counter(each for document in documents(3_000) for each in document.text.split())
    total = counts.total()
    # 1 / (r + 2.7)^1.07 over half a million ranks: the first word has 3.3% of all, the tenth 1%.
    assert counts[word(0)] / total == pytest.approx(0.033, rel=0.15)
    assert counts[word(9)] / total == pytest.approx(0.0089, rel=0.2)
    assert 40 < total / 3_000 < 56  # the mean of a log-normal with median 40


@pytest.mark.slow
def test_queries_have_two_to_five_words_of_one_document():
    asked, texts = queries(40, 500), [set(each.text.split()) for each in documents(500)]
    frequent = {word(rank) for rank in range(FREQUENT)}
    assert len(set(asked)) == 40 and asked == queries(40, 500)
    for query in asked:
        words = set(query.split())
        assert 2 <= len(words) <= 5 and not words & frequent and any(words <= text for text in texts)


@pytest.mark.slow
def test_a_whole_run_measures_each_process(tmp_path):
    pipeline = tmp_path / "other.yaml"
    pipeline.write_text(json.dumps({"name": "other", "stages": [{"bm25": {"k": 10}}]}), encoding="utf-8")
    missing = tmp_path / "missing.yaml"
    stage = {"text_search": {"engine": "milvus", "url": str(tmp_path / "none.db"), "index": "none"}}
    missing.write_text(json.dumps({"name": "missing", "stages": [stage]}), encoding="utf-8")
    options = argparse.Namespace(
        documents=[300],
        rival=[200],
        streamed=[20, 600],
        queries=20,
        of_rival=5,
        repeats=2,
        of_engines=4,
        through=[str(pipeline), f"{missing}@300"],
        load=False,
    )
    results = benchmark.benchmark(tmp_path / "work", options)
    assert {size: each["build"]["documents"] for size, each in results["indexes"].items()} == {200: 200, 300: 300}
    assert results["rank_bm25"][200]["same_hits"] > 0.9 and len(results["rank_bm25"][200]["ours"]) == 2
    found, failed = results["engines"]
    assert (found["documents"], found["same_hits"]) == (200, 1.0)
    assert failed["documents"] == 300 and failed["failed"] in results["table"]
    few, many = results["streamed"]
    assert (few["queries"], many["queries"]) == (20, 600) and many["lines"] == pytest.approx(30 * few["lines"], rel=0.2)
    ratio = results["comparisons"][0]["ratio"]
    assert f"| {ratio:.0f} (" in results["table"] and "| 600 |" in results["table"]
