"""Coverage for simulated topic values, from few topics to many, for judges of any quality."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.statistics.prediction_powered.draws import DRAWS, Interval, Sample, intervals, summary

Floats = NDArray[np.float64]

SIZE = 200_000
JUDGED = 200
HUMAN = (10, 20, 50)

_RANKS = np.array([0, *(1 / rank for rank in range(1, 11))])
#: MRR@10 of a good and of a poor system, as in tests/eval/test_significance.py.
_GOOD = np.array([0.50, 0.22, 0.08, 0.05, 0.04, 0.03, 0.02, 0.02, 0.02, 0.01, 0.01])
_POOR = np.array([0.85, 0.04, 0.02, 0.02, 0.02, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005])


def rows() -> Iterator[dict[str, Any]]:
    """Coverage for each distribution, judge and number of human topics; the judge grades 200 topics."""
    for kind, truth in _truths(np.random.default_rng(7)).items():
        for judge, judged in _judges(truth, np.random.default_rng(8)).items():
            for n in HUMAN:
                about = {"system": f"{kind}; {judge} judge; {n} of {JUDGED} topics", "n_human": n, "n_judged": JUDGED}
                yield from _row(about, truth, judged, n)


def _truths(rng: np.random.Generator) -> dict[str, Floats]:
    return {
        "nDCG": rng.beta(1.2, 1.0, SIZE),
        "difference": np.where(rng.random(SIZE) < 0.5, 0, rng.beta(2, 3, SIZE) - 0.3),
        "MRR, good system": rng.choice(_RANKS, p=_GOOD, size=SIZE),
        "MRR, poor system": rng.choice(_RANKS, p=_POOR, size=SIZE),
    }


def _judges(truth: Floats, rng: np.random.Generator) -> dict[str, Floats]:
    other = rng.permutation(truth)
    return {
        "good": np.where(rng.random(SIZE) < 0.85, truth, other),
        "biased": 0.4 + 0.5 * np.where(rng.random(SIZE) < 0.75, truth, other) + rng.normal(0, 0.1, SIZE),
        "useless": other,
    }


def _row(about: dict[str, Any], truth: Floats, judged: Floats, n: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(n)
    drawn, gains = [], []
    for seed in range(DRAWS):
        at = rng.integers(0, SIZE, JUDGED)
        human, graded = truth[at][:n], judged[at]
        found, both = intervals(Sample(_named(human), _named(graded)), seed)
        drawn.append({**both, **_textbook(human, graded[:n], graded[n:], found.value, found.lam)})
        gains.append(found.effective_n / n)
    yield from summary(about, float(truth.mean()), drawn, gains)


def _textbook(human: Floats, judged: Floats, others: Floats, value: float, lam: float) -> dict[str, Interval]:
    """The normal interval of PPI++ (with population variances, as in the authors' code), and Student's interval."""
    n, m = len(human), len(others)
    spread = (human - lam * judged).var()
    normal = 1.96 * np.sqrt(spread / n + lam**2 * others.var() / m)
    student = stats.t.ppf(0.975, n - 2) * np.sqrt(spread / (n - 2) + lam**2 * others.var() / (m - 1))
    return {
        "normal (PPI++)": Interval(value, value - float(normal), value + float(normal)),
        "Student, n - 2": Interval(value, value - float(student), value + float(student)),
    }


def _named(values: Floats) -> dict[str, float]:
    return {str(row): float(value) for row, value in enumerate(values)}
