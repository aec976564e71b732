"""Intervals and tests of figures of agreement, resampled by query: the pairs of one query are not independent.

**Interval**: studentised bootstrap (bootstrap-t). Whole queries are drawn; the error within each resample is the
infinitesimal jackknife's, that of the data the jackknife's. By simulation with the queries of four LLMJudge judges,
drawn as they are and from a population modelled on them (400 times each, 25 queries, 500 resamples), the interval of
kappa over four grades covered the truth in 93.0–96.2%; the percentile interval in 88.5–94.0%, BCa in 86.0–94.8%. With
three of the judges it covered weighted kappa and alpha in 92.8–96.8% and the absolute error in 93.8–97.2%. It is a
little too narrow where a figure is near 0 and few queries carry it (binary kappa of the worst judge: 90%, percentile
86%), and with 10 queries (kappa: 90.5–95.2%, percentile 87.5–90.2%). Sources: Efron and Tibshirani, An Introduction to
the Bootstrap (1993), chapters 11, 12 and 22.

**Test** of two judges: their labels of whole queries are swapped at random (paired randomisation), as
`significance.paired_differences` does for means; with the +1 of Phipson and Smyth (2010). Where two judges are
interchangeable it rejects at 0.05 in 3.5–6.8% (400 times, six pairs of judges, 25 and 50 queries). Where their kappas
are equal but their ways of grading are not, it rejects less often than it says (0.3–5.0%): it errs on the safe side.
Intervals of the difference covered it in 93.0–98.3% of the same draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from searchlora.eval.intervals import blocks, drawn
from searchlora.eval.judge.agreement import Floats

#: Tables of counts `(..., *table)` -> figures `(...)`; nan where the figure does not exist.
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
    resamples: int = 10_000,
    seed: int = 0,
) -> Floats:
    """Figures of several judges, or their differences, with 95% intervals by query.

    Args:
        statistic: A smooth figure that does not change when all counts are multiplied by the same number.
        tables: Counts of each query and judge, `(queries, judges, *table)`.
        bounds: The least and greatest value there can be; intervals end there.
        contrasts: Sums of judges' figures to give, `(contrasts, judges)`, for example a row of +1 and −1 for the
            difference of two; None: each judge's own figure.

    Returns:
        `(contrasts, 3)`: value, low, high.
    """
    queries, judges = tables.shape[:2]
    sums = np.eye(judges) if contrasts is None else contrasts
    value = sums @ statistic(tables.sum(axis=0))
    error = _jackknife(statistic, tables, sums)
    draws = drawn_queries(queries, resamples, queries * max(judges, len(sums)), np.random.default_rng(seed))
    ratios = np.concatenate([_ratios(statistic, draw, tables, sums, value) for draw in draws])
    ends = [
        _ends(value[at], error[at], column, bounds) if queries > 1 else (math.nan, math.nan)
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
    """Two-sided p that two judges have the same figure, by swapping their labels of whole queries.

    Args:
        tables: Counts of each query and judge, `(queries, judges, *table)`.
        pairs: Places of the two judges of each test.
    """
    queries = len(tables)
    totals = tables.sum(axis=0)
    flat = tables.reshape(queries, -1)
    observed = statistic(totals)
    reached = np.zeros(len(pairs))
    rng = np.random.default_rng(seed)
    for block in blocks(resamples, max(queries, flat.shape[1])):
        kept = rng.integers(0, 2, size=(block, queries)).astype(float)
        own = (kept @ flat).reshape(block, *totals.shape)
        for at, (a, b) in enumerate(pairs):
            first = own[:, a] + totals[b] - own[:, b]
            shift = statistic(first) - statistic(totals[a] + totals[b] - first)
            # Sums in another order differ in their last digits; what is equal but for those counts as equal.
            reached[at] += (np.abs(shift) >= abs(observed[a] - observed[b]) - 1e-10).sum()
    return [float(p) for p in (reached + 1) / (resamples + 1)]


def standard_error(statistic: Statistic, tables: Floats) -> float:
    """The jackknife's standard error of a figure of tables `(queries, *table)`, leaving out one query at a time."""
    return float(_jackknife(statistic, tables[:, None], np.eye(1))[0])


def influences(statistic: Statistic, totals: Floats) -> Floats:
    """How a figure moves per count added to a cell: the derivative by each cell, in the shape of `totals`."""
    table_axes = 2
    shape = totals.shape[-table_axes:]
    step = 1e-6 * totals.sum(axis=(-2, -1))
    base = statistic(totals)
    out = np.zeros_like(totals)
    # A cell that is empty everywhere has no count in any query either, so nothing asks for its derivative.
    for cell in zip(*np.nonzero(totals.reshape(-1, *shape).any(axis=0)), strict=True):
        one = np.zeros(shape)
        one[cell] = 1
        out[(..., *cell)] = (statistic(totals + step[..., None, None] * one) - base) / step
    return out


def _ratios(statistic: Statistic, draw: Floats, tables: Floats, sums: Floats, value: Floats) -> Floats:
    """(figure* − figure) / its error*, `(resamples, contrasts)`; nan where a resample has no such figure."""
    queries, judges = tables.shape[:2]
    totals = (draw @ tables.reshape(queries, -1)).reshape(len(draw), *tables.shape[1:])
    shift = statistic(totals) @ sums.T - value
    slope = influences(statistic, totals).reshape(len(draw), judges, -1)
    moved = np.einsum("rjk,qjk->rqj", slope, tables.reshape(queries, judges, -1), optimize=True) @ sums.T
    spread = np.einsum("rq,rqc->rc", draw, moved**2, optimize=True)
    error = np.sqrt(spread * queries / max(queries - 1, 1))
    # Where a resample has no spread (one query drawn again and again), finite differences leave some 1e-6 of it.
    flat = error <= 1e-5
    ratio = np.divide(shift, error, out=np.zeros_like(shift), where=~flat)
    return np.where(flat & (np.abs(shift) > 1e-9), np.copysign(math.inf, shift), ratio)


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


def _jackknife(statistic: Statistic, tables: Floats, sums: Floats) -> Floats:
    queries = len(tables)
    without = statistic(tables.sum(axis=0) - tables) @ sums.T
    error: Floats = np.sqrt((queries - 1) / queries * ((without - without.mean(axis=0)) ** 2).sum(axis=0))
    return error


def drawn_queries(queries: int, resamples: int, cells: int, rng: np.random.Generator) -> Iterator[Floats]:
    """How often each query was drawn, in blocks of (resamples of the block, queries); a resample takes `cells`."""
    for block in blocks(resamples, cells):
        yield drawn(block, queries, rng)
