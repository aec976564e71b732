"""The simulation of decisions from few labels, on a collection whose differences are known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.statistics.few_labels import __main__ as benchmark
from benchmarks.statistics.few_labels.collections import Collection
from benchmarks.statistics.few_labels.simulation import Pair, whole_topics


@pytest.fixture(scope="module")
def collection():
    """Forty topics of twenty documents; `good` ranks by the grades with noise, `bad` at random."""
    rng = np.random.default_rng(0)
    qrels = {f"q{n}": {f"d{m}": int(rng.integers(0, 4)) for m in range(20)} for n in range(40)}
    runs = {
        name: {topic: {d: skill * grade + rng.random() for d, grade in row.items()} for topic, row in qrels.items()}
        for name, skill in (("good", 0.5), ("bad", 0.0))
    }
    return Collection("made", runs, qrels, 40, 3, judged=qrels)


def test_draws_decide_for_the_better_system_and_cover_the_truth(collection):
    pair = Pair(collection, "good", "bad")
    draws = pair.draws(8)
    assert pair.difference > 0.1
    assert {draw.decision for draw in draws} == {"candidate"}
    assert sum(draw.covered for draw in draws) >= 7
    assert np.mean([draw.differences.mean() for draw in draws]) == pytest.approx(pair.difference, abs=0.03)
    assert np.median([draw.labels for draw in draws]) < whole_topics(draws) < draws[0].pairs
    exchanged = Pair(collection, "bad", "good").draws(8)
    assert {draw.decision for draw in exchanged} == {"baseline"}
    assert [draw.labels for draw in exchanged] == [draw.labels for draw in draws]


def test_the_table_counts_decisions_by_what_they_are(collection):
    systems = [("good", "bad"), ("bad", "good")]
    rows = list(benchmark._rows(collection, systems, [benchmark._draws(collection, 4, pair) for pair in systems]))
    found = {(row["system"], row["measure"]): row["value"] for row in rows}
    assert found["made", "wrong decisions"] == 0
    assert found["made", "false promotions"] <= 0.125
    assert {value for (system, measure), value in found.items() if measure == "decided"} == {1.0}
    table = benchmark.table(rows)
    assert "made: good − bad = +0." in table
    assert "made: bad − good = -0." in table
