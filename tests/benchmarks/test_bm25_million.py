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
def test_a_whole_run_measures_each_process(tmp_path, capsys):
    local, engine = tmp_path / "local.yaml", tmp_path / "engine.yaml"
    local.write_text(json.dumps({"name": "local", "stages": [{"bm25": {"k": 10}}]}), encoding="utf-8")
    stage = {"text_search": {"engine": "milvus", "url": str(tmp_path / "engine.db"), "index": "few", "k": 10}}
    engine.write_text(json.dumps({"name": "engine", "stages": [stage]}), encoding="utf-8")
    through = [str(local), str(engine)]
    options = argparse.Namespace(documents=[300], rival=[200], streamed=[20, 600], through=through)
    rows, comparisons = benchmark.benchmark(tmp_path / "work", options, count=20)
    figures = {(row["system"], row["measure"]): row["value"] for row in rows}
    assert figures["rank-bm25, 200 documents", "same top 10"] > 0.9
    assert figures["engine, 200 documents", "same top 10"] > 0.5
    assert f"{local}: benchmarks.bm25_million.processes load failed" in capsys.readouterr().out  # it is no engine
    few, many = (figures[f"searchlora run, {count} queries", "lines"] for count in (20, 600))
    assert many == pytest.approx(30 * few, rel=0.2)
    assert {row["system"] for row in rows} > {"index of 300 documents", "saved index, 300 documents"}
    (pair,) = comparisons
    assert 0 < pair["low"] <= pair["ratio"] <= pair["high"]
