"""Bootstrap intervals and paired randomisation tests of statistics of sums (kappa, F1, calibration error), by cluster.

Each cluster (query, dialogue, or single row) has a table of cells for each system, mostly counts. A statistic is a
function of their sums, so a resample of clusters takes one matrix product.

**Interval**: studentised bootstrap (bootstrap-t) over whole clusters. The error within a resample is estimated by the
infinitesimal jackknife, the error of the data by the jackknife (Efron and Tibshirani, An Introduction to the Bootstrap,
1993, chapters 11, 12 and 22). Coverage of the 95% interval in simulations:

* Grades of four LLMJudge judges, drawn from the data and from a population modelled on them (400 draws, 25 queries, 500
  resamples): kappa over four grades 93.0–96.2% (percentile 88.5–94.0%, BCa 86.0–94.8%); weighted kappa and alpha, for
  three of the judges, 92.8–96.8%; absolute error 93.8–97.2%. The interval is slightly too narrow for a value near 0
  that rests on few queries (binary kappa of the worst judge: 90%, percentile 86%), and with 10 queries (kappa
  90.5–95.2%, percentile 87.5–90.2%).
* Independent rows (benchmarks/statistics/intervals, 500 draws): F1 of one class 95.6% and macro-F1 of ten labels 98.2%
  at n = 200; at n = 43, with four rows a label, both at least 99%, since the interval is wide. Calibration error, whose
  bias no interval that was tried corrects fully: 89–90% (percentile 9% at n = 43, 68% at n = 200).

**Test** of two systems: the tables of whole clusters are swapped between them at random, as
`significance.paired_differences` does for means, with the +1 of Phipson and Smyth (2010). It rejects at level 0.05 in
3.5–6.8% of draws when two judges are interchangeable (400 draws, six pairs of judges, 25 and 50 queries), and in
3.4–5.4% for aggregates of two equal systems. It is conservative (0.3–5.0%) when two kappas are equal but the judges
grade differently. The interval of the difference covers 93.0–98.3% of the same draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from searchlora.eval.intervals import Floats, batches, cluster_draws

#: Sums `(..., *table)` -> values `(...)`; nan where the statistic is undefined.
Statistic = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Figure:
    """A statistic with its 95% interval, over n pairs of a number of queries.

    `low` and `high` are nan when there is no interval (a single query, or all data of the statistic in one query);
    `value` is nan when the statistic is undefined.
    """

    value: float
    low: float
    high: float
    n: int
    queries: int


def intervals(
    statistic: Statistic,
    tables: Floats,
    *,
    bounds: tuple[float, float],
    contrasts: Floats | None = None,
    limit: float = math.inf,
    resamples: int = 10_000,
    seed: int = 0,
) -> Floats:
    """Values of a statistic for several systems, or their differences, with 95% intervals by cluster.

    Args:
        statistic: A smooth statistic that does not change when all sums are multiplied by the same number.
        tables: Cells of each cluster and system, `(clusters, systems, *table)`.
        bounds: The least and greatest possible value; intervals are clipped to them.
        contrasts: Linear combinations of the systems' values, `(contrasts, systems)`, for example a row with +1 and −1
            for a difference; None: the value of each system.
        limit: Greatest distance of an end from the value, in standard errors (see `intervals.LIMIT`).

    Returns:
        `(contrasts, 3)`: value, low, high.

    Examples:
        The share of correct answers of one system, from (correct, total) of five queries:

        >>> tables = np.array([[3, 5], [4, 5], [2, 5], [5, 5], [4, 5]], dtype=float)[:, None]
        >>> share = lambda sums: sums[..., 0] / sums[..., 1]
        >>> value, low, high = intervals(share, tables, bounds=(0, 1), resamples=500)[0]
        >>> round(float(value), 2), bool(low < value < high)
        (0.72, True)
    """
    clusters, systems = tables.shape[:2]
    sums = np.eye(systems) if contrasts is None else contrasts
    value = _contrasted(statistic(tables.sum(axis=0)), sums)
    error = standard_errors(statistic, tables, sums)
    kinds, counts = _kinds(tables)
    cells = max(len(kinds) * max(systems, len(sums)), kinds[0].size)
    rng = np.random.default_rng(seed)
    ratios = np.concatenate(
        [
            _ratios(statistic, _drawn(batch, counts, rng), kinds, sums, value, clusters)
            for batch in batches(resamples, cells)
        ]
    )
    limits = [
        _limits(value[at], error[at], np.clip(column, -limit, limit), bounds) if clusters > 1 else (math.nan, math.nan)
        for at, column in enumerate(ratios.T)
    ]
    return np.column_stack([value, np.array(limits)])


def swap_p(
    statistic: Statistic,
    tables: Floats,
    pairs: Sequence[tuple[int, int]],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[float]:
    """Two-sided p of the hypothesis that two systems have the same value, by swapping tables of whole clusters.

    A swap after which the statistic is undefined counts as reaching the observed difference.

    Args:
        tables: Cells of each cluster and system, `(clusters, systems, *table)`.
        pairs: Indices of the two systems of each test.
    """
    totals = tables.sum(axis=0)
    kinds, counts = _kinds(tables)
    flat = kinds.reshape(len(kinds), -1)
    observed = statistic(totals)
    reached = np.zeros(len(pairs))
    rng = np.random.default_rng(seed)
    for batch in batches(resamples, max(flat.shape)):
        resampled = (_resample_counts(batch, counts, rng) @ flat).reshape(batch, *totals.shape)
        for at, (a, b) in enumerate(pairs):
            first = resampled[:, a] + totals[b] - resampled[:, b]
            shift = statistic(first) - statistic(totals[a] + totals[b] - first)
            # Sums taken in another order differ in their last digits; those count as equal.
            reached[at] += (~(np.abs(shift) < abs(observed[a] - observed[b]) - 1e-10)).sum()
    return [float(p) for p in (reached + 1) / (resamples + 1)]


def standard_error(statistic: Statistic, tables: Floats) -> float:
    """Jackknife standard error of a statistic of tables `(clusters, *table)`, leaving out one cluster at a time."""
    return float(standard_errors(statistic, tables[:, None], np.eye(1))[0])


def standard_errors(statistic: Statistic, tables: Floats, contrasts: Floats) -> Floats:
    """Jackknife standard errors of contrasts `(contrasts, systems)` of tables `(clusters, systems, *table)`."""
    clusters = len(tables)
    kinds, counts = _kinds(tables)
    without = _contrasted(statistic(tables.sum(axis=0) - kinds), contrasts)
    mean = counts @ without / clusters
    error: Floats = np.sqrt((clusters - 1) / clusters * (counts @ (without - mean) ** 2))
    return error


def influences(statistic: Statistic, totals: Floats, *, axes: int = 2) -> Floats:
    """The derivative of a statistic by each cell, in the shape of `totals`, by finite differences.

    Args:
        totals: Tables of sums; the last `axes` axes are those of one table.
    """
    flat = totals.reshape(*totals.shape[: totals.ndim - axes], -1)
    step = 1e-6 * np.abs(flat).sum(axis=-1)
    base = statistic(totals)
    moved, out = flat.copy(), np.zeros_like(flat)
    # A cell that is 0 in all totals is 0 in every cluster, so its derivative is not needed.
    for cell in np.flatnonzero(flat.reshape(-1, flat.shape[-1]).any(axis=0)):
        moved[..., cell] += step
        shift = statistic(moved.reshape(totals.shape)) - base
        out[..., cell] = np.divide(shift, step, out=np.zeros_like(shift), where=step > 0)
        moved[..., cell] = flat[..., cell]
    return out.reshape(totals.shape)


def drawn_queries(queries: int, resamples: int, cells: int, rng: np.random.Generator) -> Iterator[Floats]:
    """How often each query was drawn, in batches of (resamples of the batch, queries); a resample takes `cells`."""
    for batch in batches(resamples, cells):
        yield cluster_draws(batch, queries, rng)


def _kinds(tables: Floats) -> tuple[Floats, Floats]:
    """Distinct clusters and their counts; drawing kinds in proportion to their counts equals drawing clusters.

    When every row is a cluster there are few kinds, for example four pairs of (gold, predicted) for one class.
    """
    _, first, counts = np.unique(tables.reshape(len(tables), -1), axis=0, return_index=True, return_counts=True)
    order = np.argsort(first)
    return tables[first[order]], counts[order].astype(float)


def _drawn(resamples: int, counts: Floats, rng: np.random.Generator) -> Floats:
    """How often clusters of each kind are drawn: (resamples, kinds)."""
    if len(counts) == counts.sum():
        return cluster_draws(resamples, len(counts), rng)
    return rng.multinomial(int(counts.sum()), counts / counts.sum(), size=resamples).astype(float)


def _resample_counts(resamples: int, counts: Floats, rng: np.random.Generator) -> Floats:
    """How many clusters of each kind are not swapped: (resamples, kinds)."""
    if len(counts) == counts.sum():
        return rng.integers(0, 2, size=(resamples, len(counts))).astype(float)
    return rng.binomial(counts.astype(int), 0.5, size=(resamples, len(counts))).astype(float)


def _ratios(statistic: Statistic, draw: Floats, kinds: Floats, sums: Floats, value: Floats, clusters: int) -> Floats:
    """(value* − value) / error*, `(resamples, contrasts)`; nan where the statistic is undefined in a resample."""
    count, systems = kinds.shape[:2]
    totals = (draw @ kinds.reshape(count, -1)).reshape(len(draw), *kinds.shape[1:])
    shift = _contrasted(statistic(totals), sums) - value
    slope = influences(statistic, totals, axes=kinds.ndim - 2).reshape(len(draw), systems, -1)
    # (systems, resamples, kinds): the influence of a cluster of each kind.
    moved = slope.transpose(1, 0, 2) @ kinds.reshape(count, systems, -1).transpose(1, 2, 0)
    spread = [
        np.einsum("rk,rk,rk->r", draw, each, each) for each in (_weighted_sum(moved, contrast) for contrast in sums)
    ]
    error = np.sqrt(np.stack(spread, axis=1) * clusters / max(clusters - 1, 1))
    # In a resample without spread (one cluster drawn every time) finite differences leave about 1e-6.
    flat = error <= 1e-5
    ratio = np.divide(shift, error, out=np.zeros_like(shift), where=~flat)
    return np.where(flat & (np.abs(shift) > 1e-9), np.copysign(math.inf, shift), ratio)


def _contrasted(figures: Floats, contrasts: Floats) -> Floats:
    """Contrasts of the systems' values: `(..., systems)` -> `(..., contrasts)`."""
    return np.stack([_weighted_sum(np.moveaxis(figures, -1, 0), contrast) for contrast in contrasts], axis=-1)


def _weighted_sum(figures: Floats, contrast: Floats) -> Floats:
    """`(systems, ...)` -> `(...)`; a system with weight 0 is ignored even if its value is nan."""
    named = np.flatnonzero(contrast)
    return np.asarray(sum(contrast[system] * figures[system] for system in named))


def _limits(
    value: float, error: float, ratios: NDArray[np.float64], bounds: tuple[float, float]
) -> tuple[float, float]:
    known = ratios[~np.isnan(ratios)]
    if math.isnan(error) or len(known) < len(ratios) / 2:
        return math.nan, math.nan
    if error <= 1e-12:
        return value, value
    # An infinite ratio must not be interpolated with a finite one.
    upper, lower = np.quantile(known, [0.975, 0.025], method="nearest")
    low, high = np.clip([value - upper * error, value - lower * error], *bounds)
    return float(low), float(high)
