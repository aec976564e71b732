"""Bootstrap intervals: coverage, clusters, weights and formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.statistics.intervals.simulation import draws
from searchlora.errors import UsageError
from searchlora.eval.intervals import bootstrap_interval, bootstrap_intervals


def coverage(kind: str, n: int, repeats: int, resamples: int) -> float:
    values, truth = draws(kind, (n, repeats), np.random.default_rng(n))
    low, high = bootstrap_intervals(values, resamples=resamples).T
    return float(((low <= truth) & (truth <= high)).mean())


@pytest.mark.parametrize("n", [43, 200])
@pytest.mark.parametrize("kind", ["spread", "good", "difference"])
def test_95_percent_intervals_cover_about_95_percent(kind, n):
    assert 0.925 <= coverage(kind, n, 1_000, 1_000) <= 0.975


def test_alternative_intervals_of_the_benchmark_equal_scipy():
    from benchmarks.statistics.intervals.alternatives import resampled, student

    values = np.random.default_rng(6).beta(0.5, 2, (43, 3))
    draw = np.random.default_rng(7).multinomial(43, np.full(43, 1 / 43), size=20_000).astype(float)
    found = resampled(values, draw)
    for column, own in enumerate(values.T):
        for name, method in (("percentile", "percentile"), ("BCa", "BCa")):
            theirs = stats.bootstrap((own,), np.mean, n_resamples=20_000, method=method, rng=1).confidence_interval
            assert found[name][column] == pytest.approx(tuple(theirs), abs=0.004)
        expected = stats.t.interval(0.95, 42, own.mean(), stats.sem(own))
        assert student(values)[column] == pytest.approx(expected)
    assert found["bootstrap-t"] == pytest.approx(bootstrap_intervals(values), abs=0.01)


def test_unequal_clusters_are_covered_and_ignoring_clusters_undercovers():
    rng = np.random.default_rng(5)
    sizes = rng.integers(2, 12, 40)
    clusters = [str(c) for c, size in enumerate(sizes) for _ in range(size)]
    own, of_row = rng.normal(0, 1, (40, 600)), rng.normal(0, 0.5, (sizes.sum(), 600))
    values = np.repeat(own, sizes, axis=0) + of_row
    hit = {
        name: ((interval[:, 0] <= 0) & (interval[:, 1] >= 0)).mean()
        for name, interval in {
            "clustered": bootstrap_intervals(values, clusters, resamples=1_000),
            "rows": bootstrap_intervals(values, resamples=1_000),
        }.items()
    }
    assert hit["clustered"] >= 0.925
    assert hit["rows"] < 0.8


@pytest.mark.parametrize("sizes", [(1, 4, 2, 7, 3, 3), (1,) * 9, (3,) * 8])
def test_interval_equals_a_plain_loop(sizes):
    """The vectorised ratio of sums against the formulas written out, resample by resample, on the same resamples."""
    rng = np.random.default_rng(8)
    groups = [rng.random(size) ** 3 for size in sizes]
    values = np.concatenate(groups)
    clusters = [f"{index:02}" for index, group in enumerate(groups) for _ in group]
    count = len(groups)
    mean, error = _mean_and_error(groups)
    found = []
    for row in np.random.default_rng(0).integers(0, count, size=(2_000, count)):
        drawn_mean, drawn_error = _mean_and_error([groups[index] for index in row])
        shift = drawn_mean - mean
        found.append(shift / drawn_error if len(set(row)) > 1 else math.copysign(math.inf, shift))
    tails = np.clip(np.quantile(found, [0.975, 0.025], method="nearest"), -6, 6)
    expected = np.clip(mean - tails * error, values.min(), values.max())
    assert bootstrap_interval(values, clusters, resamples=2_000) == pytest.approx(expected, rel=1e-9)


def _mean_and_error(groups):
    """Mean over all rows, and its standard error from what clusters add to it."""
    rows, count = sum(map(len, groups)), len(groups)
    mean = sum(group.sum() for group in groups) / rows
    squares = sum((group.sum() - mean * len(group)) ** 2 for group in groups)
    return mean, math.sqrt(count / (count - 1) * squares) / rows


def test_few_differing_clusters_do_not_give_an_unbounded_interval():
    """One failure among 120: many resamples do not hold it, and are flat."""
    low, high = bootstrap_interval([0.0, *[1.0] * 119])
    assert high == 1.0
    assert 0.94 < low < stats.beta.ppf(0.025, 119, 2)  # wider than the exact binomial interval
    losses, gains = [-0.71, -0.69, -0.42, -0.05], [0.02, 0.06, 0.11, 0.12, 0.16, 0.22, 0.25, 0.26, 0.35, 0.4, 0.64]
    values = [*losses, *[0.0] * 13, *gains]
    low, high = bootstrap_interval(values)
    student = stats.t.interval(0.95, 27, np.mean(values), stats.sem(values))
    assert high - low < 1.5 * (student[1] - student[0])


def test_intervals_of_edge_cases():
    assert bootstrap_interval([0.5] * 10) == (0.5, 0.5)
    assert bootstrap_interval([0.1] * 9, ["a"] * 4 + ["b"] * 5) == pytest.approx((0.1, 0.1))
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)
    assert all(math.isnan(end) for end in bootstrap_interval([0.2, 0.4], ["one", "one"]))
    assert bootstrap_interval([0.1, 0.9, 0.4], seed=4) == bootstrap_interval([0.1, 0.9, 0.4], seed=4)
    with pytest.raises(UsageError, match="no rows"):
        bootstrap_interval([])
    with pytest.raises(UsageError, match="not finite"):
        bootstrap_interval([0.1, float("nan")])
    with pytest.raises(UsageError, match="2 rows have 1 clusters"):
        bootstrap_interval([0.1, 0.2], ["a"])


def test_memory_is_bounded():
    """A hundred thousand rows: ten thousand resamples of them at once would be 8 GB."""
    import tracemalloc

    values = np.random.default_rng(0).random(100_000)
    tracemalloc.start()
    bootstrap_interval(values, resamples=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000_000
