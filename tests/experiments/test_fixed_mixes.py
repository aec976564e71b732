"""Mixes of a fusion: as the fusion with those weights, from hits that are retrieved once."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from searchlora.adapters.store import Store
from searchlora.errors import UsageError
from searchlora.eval.intervals import bootstrap_interval
from searchlora.eval.measures import retrieval_values
from searchlora.experiments.fixed_mixes import fused_by, measure_mixes, mix_table, mixes, part_hits
from searchlora.experiments.slots import with_weights
from searchlora.pipelines.corpus import open_corpus
from searchlora.pipelines.pipeline import Pipeline, build_pipeline, run_of
from searchlora.pipelines.stages.stage import FUSED_QUERIES
from searchlora.records import Document

DOCUMENTS = [
    Document("d1", "red couch for two"),
    Document("d2", "red red tent"),
    Document("d3", "couch couch couch blue"),
    Document("d4", "blue lamp"),
]
QUERIES = {"q1": "red couch", "q2": "blue couch", "q3": "red lamp"}
QRELS = {"q1": {"d1": 2}, "q2": {"d3": 1, "d1": 1}, "q3": {"d4": 1}}


def pipeline(tmp_path, parts=3, method="rrf"):
    of = ", ".join(["{bm25: {k: 2}}", "{bm25: {k: 3, b: 0}}", "{bm25: {k: 2, k1: 3}}"][:parts])
    file = tmp_path / "hybrid.yaml"
    file.write_text(f"name: hybrid\nstages:\n  - fuse: {{k: 3, method: {method}, of: [{of}]}}\n", encoding="utf-8")
    return Pipeline.load(file, corpus=DOCUMENTS)


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_mixes_are_the_multiples_of_a_tenth_that_add_up_to_1(parts):
    found = list(mixes(parts))
    assert len(set(found)) == len(found) == comb(10 + parts - 1, parts - 1)
    assert all(sum(weights) == pytest.approx(1) for weights in found)


@pytest.mark.parametrize("method", ["rrf", "combsum"])
def test_a_mix_is_the_fusion_with_its_weights(tmp_path, method):
    hybrid = pipeline(tmp_path, method=method)
    searches = [{"id": topic, "query": query} for topic, query in QUERIES.items()]
    searches[0][FUSED_QUERIES] = ("lamp", "red couch")  # searched with two queries, as after `rewrite: fuse`
    (stage,), (settings,) = hybrid.stages, hybrid.settings
    hits = part_hits(stage, searches)
    for weights in ((0.2, 0.3, 0.5), (0.0, 0.4, 0.6), (1.0, 0.0, 0.0)):
        changed = build_pipeline(
            "changed", with_weights(hybrid.settings, weights), store=Store("none"), documents=open_corpus(DOCUMENTS)
        )
        expected = [search["hits"] for search in changed.execute(searches)]
        assert [fused_by(of_parts, settings, weights) for of_parts in hits] == expected


def test_each_mix_has_its_mean_and_interval(tmp_path):
    hybrid = pipeline(tmp_path, 2)
    searches = [{"id": topic, "query": query} for topic, query in QUERIES.items()]
    hits = dict(zip(QUERIES, part_hits(hybrid.stages[0], searches), strict=True))
    reported = []
    found = measure_mixes(hits, hybrid.settings[0], QRELS, progress=lambda done, *_: reported.append(done))
    weights, table = mix_table(hits, hybrid.settings[0], QRELS)
    assert (len(found), table.shape, reported) == (11, (3, 11), list(range(1, 12)))
    assert [mix.weights for mix in found] == weights
    equal = found[5]
    values = retrieval_values(run_of(hybrid.execute(searches)), QRELS, ["nDCG@10"])["nDCG@10"]
    assert equal.weights == (0.5, 0.5)
    assert equal.value == pytest.approx(np.mean(list(values.values())))
    assert (equal.low, equal.high) == pytest.approx(bootstrap_interval(list(values.values())))


def test_a_topic_without_hits_counts_0(tmp_path):
    hybrid = pipeline(tmp_path, 2)
    hits = {"q1": part_hits(hybrid.stages[0], [{"id": "q1", "query": "red couch"}])[0]}
    _, table = mix_table(hits, hybrid.settings[0], {"q1": {"d1": 1}, "q9": {"d1": 1}})
    assert (table[0] > 0).all() and (table[1] == 0).all()


def test_what_does_not_fuse_two_or_three_parts_is_refused(tmp_path):
    alone = pipeline(tmp_path, 1)
    hits = {"q1": part_hits(alone.stages[0], [{"id": "q1", "query": "red couch"}])[0]}
    with pytest.raises(UsageError, match="the fusion has 1 parts"):
        measure_mixes(hits, alone.settings[0], QRELS)
    bm25 = Pipeline.load("bm25", corpus=DOCUMENTS)
    with pytest.raises(UsageError, match="fuses nothing"):
        part_hits(bm25.stages[0], [{"id": "q1", "query": "red couch"}])
