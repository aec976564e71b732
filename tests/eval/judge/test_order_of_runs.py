"""Order of runs under human grades and under a judge, over the pairs that both graded."""

from __future__ import annotations

import numpy as np
import pytest

from searchlora.eval.judge.system_order import kendall_tau, order_of_runs
from searchlora.eval.measures import retrieval_values

RNG = np.random.default_rng(2)
HUMAN = {f"q{q}": {f"d{d}": int(RNG.choice([0, 0, 0, 1, 2, 3])) for d in range(30)} for q in range(15)}


def run(noise: float, seed: int):
    rng = np.random.default_rng(seed)
    return {q: {d: grade + noise * rng.normal() for d, grade in row.items()} for q, row in HUMAN.items()}


RUNS = {f"noise {noise}": run(noise, int(10 * noise)) for noise in (0.3, 1.0, 2.0, 4.0)}


def test_systems_are_ordered_by_their_measured_values():
    judged = {
        q: {d: grade if RNG.random() < 0.6 else int(RNG.integers(0, 4)) for d, grade in row.items()}
        for q, row in HUMAN.items()
    }
    found = order_of_runs(HUMAN, judged, RUNS, top=3, resamples=200)
    means = [
        {n: float(np.mean([*retrieval_values(r, side, ["nDCG@10"])["nDCG@10"].values()])) for n, r in RUNS.items()}
        for side in (HUMAN, judged)
    ]
    assert found.systems == tuple(sorted(means[0], key=lambda name: -means[0][name]))
    assert dict(zip(found.systems, found.judge, strict=True)) == pytest.approx(means[1])
    assert found.tau.value == pytest.approx(kendall_tau(*means))
    assert (found.tau.n, found.tau.queries, found.top, found.measure) == (4, 15, 3, "nDCG@10")
    assert not found.notes


def test_a_perfect_judge_of_half_the_pairs_reproduces_the_order_on_that_half():
    """What was judged must not look like how it was judged."""
    half = {q: {d: grade for d, grade in row.items() if int(d[1:]) % 2} for q, row in HUMAN.items()}
    found = order_of_runs(HUMAN, half, RUNS, resamples=50)
    assert found.human == found.judge
    assert found.tau.value == 1
    assert found.notes == (
        "225 of 450 human-graded pairs have no label of the judge and are left out.",
    )  # fmt: skip


def test_invalid_answers_count_as_unjudged_and_are_reported():
    lost = {
        q: {d: None if d == "d3" else 9 if d == "d4" else grade for d, grade in row.items()} for q, row in HUMAN.items()
    }
    found = order_of_runs(HUMAN, lost, RUNS, resamples=50)
    rest = {q: {d: grade for d, grade in row.items() if d not in ("d3", "d4")} for q, row in HUMAN.items()}
    mean = np.mean([*retrieval_values(RUNS[found.systems[0]], rest, ["nDCG@10"])["nDCG@10"].values()])
    assert found.judge[0] == pytest.approx(mean)
    assert found.notes == ("30 pairs with an invalid answer count as unjudged under the judge's grades.",)
