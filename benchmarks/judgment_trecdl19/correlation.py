"""Kendall's tau of systems under human and judge grades, with its interval by topic.

Source: Kendall (1945), The treatment of ties in ranking problems (tau-b).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau

from searchlora.eval.judge.labels import common_pairs, restrict
from searchlora.eval.measures import retrieval_values
from searchlora.eval.resampling import Estimate
from searchlora.eval.trec import Qrels, Run

MEASURE, RESAMPLES = "nDCG@10", 10_000


@dataclass(frozen=True)
class SystemOrder:
    """The systems, best first under the human grades; their means under both; and tau, whose `n` counts systems."""

    systems: tuple[str, ...]
    human: tuple[float, ...]
    judge: tuple[float, ...]
    tau: Estimate


def order_of_runs(human: Qrels, judge: Qrels, runs: Mapping[str, Run]) -> SystemOrder:
    """Measure every run with human and judge grades of the pairs that both graded, and compare the orders."""
    shared = common_pairs([human, judge])
    sides = []
    for labels in (human, judge):
        graded = {topic: row for topic, row in restrict(labels, shared).items() if row}
        sides.append({name: retrieval_values(run, graded, [MEASURE])[MEASURE] for name, run in runs.items()})
    topics = [topic for topic in sides[0][next(iter(runs))] if all(topic in sides[1][name] for name in runs)]
    systems = sorted(runs, key=lambda name: (-np.mean([sides[0][name][topic] for topic in topics]), name))
    values = [np.array([[side[name][topic] for name in systems] for topic in topics]) for side in sides]
    means = [each.mean(axis=0) for each in values]
    rng = np.random.default_rng(0)
    drawn = [rng.integers(len(topics), size=len(topics)) for _ in range(RESAMPLES)]
    resampled = [_tau(values[0][rows].mean(axis=0), values[1][rows].mean(axis=0)) for rows in drawn]
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    tau = Estimate(_tau(*means), float(low), float(high), len(systems), len(topics))
    return SystemOrder(tuple(systems), tuple(means[0].tolist()), tuple(means[1].tolist()), tau)


def _tau(a: np.ndarray, b: np.ndarray) -> float:
    return float(kendalltau(np.round(a, 12), np.round(b, 12)).statistic)
