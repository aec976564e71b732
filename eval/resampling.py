"""Intervals and tests of figures of sums, resampled by cluster: kappa, F1, calibration error.

Each cluster (query, dialogue, or single row) has a table of cells for each system, counts mostly; a figure is a
function of their sums, so a resample of clusters is one matrix product.

**Interval**: studentised bootstrap (bootstrap-t). Whole clusters are drawn; the error within each resample is the
infinitesimal jackknife's, that of the data the jackknife's. By simulation with the queries of four LLMJudge judges,
drawn as they are and from a population modelled on them (400 times each, 25 queries, 500 resamples), the interval of
kappa over four grades covered the truth in 93.0–96.2%; the percentile interval in 88.5–94.0%, BCa in 86.0–94.8%. With
three of the judges it covered weighted kappa and alpha in 92.8–96.8% and the absolute error in 93.8–97.2%. It is a
little too narrow where a figure is near 0 and few queries carry it (binary kappa of the worst judge: 90%, percentile
86%), and with 10 queries (kappa: 90.5–95.2%, percentile 87.5–90.2%). Sources: Efron and Tibshirani, An Introduction to
the Bootstrap (1993), chapters 11, 12 and 22. Of single rows (benchmarks/intervals.pooled, 500 times each) it covered F1
of one class in 95.6% and macro-F1 of ten labels in 98.2% at n = 200; at n = 43, four rows a label, both in 99% and
more, being wide. Of calibration error, whose bias no interval tried corrects in full, it covered 89–90% (percentile 9%
at n = 43, 68% at 200).

**Test** of two systems: their tables of whole clusters are swapped at random (paired randomisation), as
`significance.paired_differences` does for means; with the +1 of Phipson and Smyth (2010). Where two judges are
interchangeable it rejects at 0.05 in 3.5–6.8% (400 times, six pairs of judges, 25 and 50 queries). Where their kappas
are equal but their ways of grading are not, it rejects less often than it says (0.3–5.0%): it errs on the safe side.
Intervals of the difference covered it in 93.0–98.3% of the same draws. Of aggregates of two systems alike it
rejects in 3.4–5.4%.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from searchlora.eval.intervals import Floats, batches, cluster_draws

#: Tables of sums `(..., *table)` -> figures `(...)`; nan where the figure does not exist.
Statistic = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Figure:
    """A figure over n pairs of so many queries, with its 95% interval.

    `low` and `high` are nan where the queries allow no interval (one only, or all that a figure has in one of them);
    `value` is nan where the figure does not exist.
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
    """Figures of several systems, or their differences, with 95% intervals by cluster.

    Args:
        statistic: A smooth figure that does not change when all sums are multiplied by the same number.
        tables: Cells of each cluster and system, `(clusters, systems, *table)`.
        bounds: The least and greatest value there can be; intervals end there.
        contrasts: Sums of systems' figures to give, `(contrasts, systems)`, for example a row of +1 and −1 for the
            difference of two; None: each system's own figure.
        limit: How many standard errors an end may lie from the figure, see `intervals.LIMIT`.

    Returns:
        `(contrasts, 3)`: value, low, high.
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
    ends = [
        _ends(value[at], error[at], np.clip(column, -limit, limit), bounds) if clusters > 1 else (math.nan, math.nan)
        for at, column in enumerate(ratios.T)
    ]
    return np.column_stack([value, np.array(ends)])


def swap_p(
    statistic: Statistic,
    tables: Floats,
    pairs: Sequence[tuple[int, int]],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[float]:
    """Two-sided p that two systems have the same figure, by swapping their tables of whole clusters.

    A swap after which there is no such figure counts as one that reaches the difference.

    Args:
        tables: Cells of each cluster and system, `(clusters, systems, *table)`.
        pairs: Places of the two systems of each test.
    """
    totals = tables.sum(axis=0)
    kinds, counts = _kinds(tables)
    flat = kinds.reshape(len(kinds), -1)
    observed = statistic(totals)
    reached = np.zeros(len(pairs))
    rng = np.random.default_rng(seed)
    for batch in batches(resamples, max(flat.shape)):
        own = (_kept(batch, counts, rng) @ flat).reshape(batch, *totals.shape)
        for at, (a, b) in enumerate(pairs):
            first = own[:, a] + totals[b] - own[:, b]
            shift = statistic(first) - statistic(totals[a] + totals[b] - first)
            # Sums in another order differ in their last digits; what is equal but for those counts as equal.
            reached[at] += (~(np.abs(shift) < abs(observed[a] - observed[b]) - 1e-10)).sum()
    return [float(p) for p in (reached + 1) / (resamples + 1)]


def standard_error(statistic: Statistic, tables: Floats) -> float:
    """The jackknife's standard error of a figure of tables `(clusters, *table)`, leaving out one cluster at a time."""
    return float(standard_errors(statistic, tables[:, None], np.eye(1))[0])


def standard_errors(statistic: Statistic, tables: Floats, contrasts: Floats) -> Floats:
    """The same of sums of figures `(contrasts, systems)` of tables `(clusters, systems, *table)`."""
    clusters = len(tables)
    kinds, counts = _kinds(tables)
    without = _contrasted(statistic(tables.sum(axis=0) - kinds), contrasts)
    mean = counts @ without / clusters
    error: Floats = np.sqrt((clusters - 1) / clusters * (counts @ (without - mean) ** 2))
    return error


def influences(statistic: Statistic, totals: Floats, *, axes: int = 2) -> Floats:
    """How a figure moves per unit added to a cell: the derivative by each cell, in the shape of `totals`.

    Args:
        totals: Tables of sums; the last `axes` of its shape are the table's.
    """
    flat = totals.reshape(*totals.shape[: totals.ndim - axes], -1)
    step = 1e-6 * np.abs(flat).sum(axis=-1)
    base = statistic(totals)
    moved, out = flat.copy(), np.zeros_like(flat)
    # A cell that is empty everywhere has nothing in any cluster either, so nothing asks for its derivative.
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
    """The different clusters, and how many there are of each: to draw kinds by their counts is to draw clusters.

    Where every row is a cluster there are few kinds, as four of (true, said) for one class.
    """
    _, first, counts = np.unique(tables.reshape(len(tables), -1), axis=0, return_index=True, return_counts=True)
    order = np.argsort(first)
    return tables[first[order]], counts[order].astype(float)


def _drawn(resamples: int, counts: Floats, rng: np.random.Generator) -> Floats:
    """How often clusters of each kind are drawn: (resamples, kinds)."""
    if len(counts) == counts.sum():
        return cluster_draws(resamples, len(counts), rng)
    return rng.multinomial(int(counts.sum()), counts / counts.sum(), size=resamples).astype(float)


def _kept(resamples: int, counts: Floats, rng: np.random.Generator) -> Floats:
    """How many clusters of each kind are not swapped: (resamples, kinds)."""
    if len(counts) == counts.sum():
        return rng.integers(0, 2, size=(resamples, len(counts))).astype(float)
    return rng.binomial(counts.astype(int), 0.5, size=(resamples, len(counts))).astype(float)


def _ratios(statistic: Statistic, draw: Floats, kinds: Floats, sums: Floats, value: Floats, clusters: int) -> Floats:
    """(figure* − figure) / its error*, `(resamples, contrasts)`; nan where a resample has no such figure."""
    count, systems = kinds.shape[:2]
    totals = (draw @ kinds.reshape(count, -1)).reshape(len(draw), *kinds.shape[1:])
    shift = _contrasted(statistic(totals), sums) - value
    slope = influences(statistic, totals, axes=kinds.ndim - 2).reshape(len(draw), systems, -1)
    # (systems, resamples, kinds): what a cluster of each kind adds to the figure.
    moved = slope.transpose(1, 0, 2) @ kinds.reshape(count, systems, -1).transpose(1, 2, 0)
    spread = [np.einsum("rk,rk,rk->r", draw, each, each) for each in (_sum_of(moved, contrast) for contrast in sums)]
    error = np.sqrt(np.stack(spread, axis=1) * clusters / max(clusters - 1, 1))
    # Where a resample has no spread (one cluster drawn again and again), finite differences leave some 1e-6 of it.
    flat = error <= 1e-5
    ratio = np.divide(shift, error, out=np.zeros_like(shift), where=~flat)
    return np.where(flat & (np.abs(shift) > 1e-9), np.copysign(math.inf, shift), ratio)


def _contrasted(figures: Floats, contrasts: Floats) -> Floats:
    """Sums of systems' figures: `(..., systems)` -> `(..., contrasts)`."""
    return np.stack([_sum_of(np.moveaxis(figures, -1, 0), contrast) for contrast in contrasts], axis=-1)


def _sum_of(figures: Floats, contrast: Floats) -> Floats:
    """`(systems, ...)` -> `(...)`; a system that is not in the contrast says nothing, though it has no figure (nan)."""
    named = np.flatnonzero(contrast)
    return np.asarray(sum(contrast[system] * figures[system] for system in named))


def _ends(value: float, error: float, ratios: NDArray[np.float64], bounds: tuple[float, float]) -> tuple[float, float]:
    known = ratios[~np.isnan(ratios)]
    if math.isnan(error) or len(known) < len(ratios) / 2:
        return math.nan, math.nan
    if error <= 1e-12:
        return value, value
    # An infinite ratio must not be interpolated with a finite one.
    upper, lower = np.quantile(known, [0.975, 0.025], method="nearest")
    low, high = np.clip([value - upper * error, value - lower * error], *bounds)
    return float(low), float(high)
