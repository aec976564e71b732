"""Intervals of means, for rows that may come in dependent groups (clusters), by the bootstrap.

**Variant**: bootstrap-t (studentised), resampling whole clusters, neither end further from the mean than `LIMIT`
standard errors. The values of retrieval measures are skewed and full of zeros and ones, and n is small. By simulation
(benchmarks/intervals) it holds the truth in 93.8 to 97.2% of draws of seven shapes of values at n = 43 and n = 200,
where percentile, BCa and Student intervals fall to 87 to 91% for a poor system, nearly all missed on one side.
Below n = 30 no interval tried holds for all shapes. On Hall's transform, at n = 28, one end can lie fifteen standard
errors away, and of a measure that is 0 or 1 with mean 0.9 it holds 85% at n = 100.

**Limit**: where few clusters differ from the rest, many resamples hold hardly any of them, and the statistic explodes:
one failure among a hundred would give an interval down to the worst value. The limit leaves more room than the exact
binomial interval does for one failure or two (6 standard errors against 4.6 and 3.7), and takes no coverage.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 12; for the ratio of sums of clusters,
Davison and Hinkley, Bootstrap Methods and their Application (1997), chapter 5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import UsageError

Floats = NDArray[np.float64]

#: How many standard errors an end may lie from the mean.
LIMIT = 6.0

#: Numbers held at once; bounds the memory at some tens of megabytes.
_CELLS = 2_000_000


def bootstrap_interval(
    values: Sequence[float],
    clusters: Sequence[str] | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """The interval of the mean of `values`; see `bootstrap_intervals`."""
    low, high = bootstrap_intervals(
        np.asarray(values, dtype=float)[:, None], clusters, resamples=resamples, seed=seed, level=level
    )[0]
    return float(low), float(high)


def bootstrap_intervals(
    values: Floats,
    clusters: Sequence[str] | None = None,
    *,
    weights: Floats | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Floats:
    """Bootstrap intervals of the means of several columns over the same rows.

    Args:
        values: (rows, columns).
        clusters: The group of each row; whole groups are resampled. None: every row on its own.
        weights: (rows,): the weight of each row in the mean, not negative and not all 0; None: all the same.

    Returns:
        (columns, 2): low and high, never outside the least and greatest value of the column. A column of one value
        has an interval of no width; with a single cluster nothing can be said and both ends are nan.

    Raises:
        UsageError: when there are no rows, a value is not finite, or the lengths differ.
    """
    sums, sizes = by_cluster(values, clusters, weights)
    count, columns = sums.shape
    if count < 2:
        return np.full((columns, 2), np.nan)
    means, residuals, error = errors(sums, sizes)
    rng = np.random.default_rng(seed)
    ratios = [_ratios(drawn(rows, count, rng), residuals, sizes) for rows in blocks(resamples, count)]
    # An infinite ratio (a resample without spread) must not be interpolated with a finite one.
    tails = np.quantile(np.concatenate(ratios), [(1 + level) / 2, (1 - level) / 2], axis=0, method="nearest")
    ends = means - np.clip(tails, -LIMIT, LIMIT) * error
    bounded: Floats = np.clip(ends, values.min(axis=0), values.max(axis=0)).T
    return bounded


def by_cluster(values: Floats, clusters: Sequence[str] | None, weights: Floats | None = None) -> tuple[Floats, Floats]:
    """Weighted sums (clusters, columns) and sizes (clusters,), without those of no weight.

    Raises:
        UsageError: as `bootstrap_intervals`.
    """
    if not len(values):
        raise UsageError("there are no rows to take a mean of")
    if not np.isfinite(values).all():
        raise UsageError("a value that is not finite has no place in a mean")
    of_row = np.ones(len(values)) if weights is None else weights
    if not (np.isfinite(of_row).all() and (of_row >= 0).all() and of_row.sum() > 0):
        raise UsageError("weights must be finite, not negative, and not all 0")
    if clusters is not None and len(clusters) != len(values):
        raise UsageError(f"{len(values)} rows have {len(clusters)} clusters")
    weighted = values * of_row[:, None]
    if clusters is None:
        return weighted[of_row > 0], of_row[of_row > 0]
    _, index = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    sums = np.zeros((index.max() + 1, values.shape[1]))
    np.add.at(sums, index, weighted)
    sizes = np.bincount(index, weights=of_row).astype(np.float64)
    return sums[sizes > 0], sizes[sizes > 0]


def errors(sums: Floats, sizes: Floats) -> tuple[Floats, Floats, Floats]:
    """Means (columns,), what clusters add to them (clusters, columns), and their standard errors (columns,)."""
    count = len(sums)
    means = sums.sum(axis=0) / sizes.sum()
    residuals = sums - means * sizes[:, None]
    return means, residuals, np.sqrt((residuals**2).sum(axis=0) * count / (count - 1)) / sizes.sum()


def blocks(resamples: int, cells: int) -> Iterator[int]:
    """How many resamples of so many numbers each to hold at once, until all are done."""
    size = max(1, _CELLS // cells)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def drawn(resamples: int, count: int, rng: np.random.Generator) -> Floats:
    """How often each of `count` clusters is drawn, `count` times with replacement: (resamples, clusters)."""
    picked = rng.integers(0, max(count, 1), size=(resamples, count)) + (np.arange(resamples) * count)[:, None]
    return np.bincount(picked.ravel(), minlength=resamples * count).reshape(resamples, count).astype(float)


def _ratios(draw: Floats, residuals: Floats, sizes: Floats) -> Floats:
    """(mean* − mean) / its standard error*, for each resample and column, by linearising the ratio of sums.

    With the shift d of the mean, a cluster of size z and residual r has the residual r − d·z in the resample; their
    squares are summed from those of r and z.
    """
    rows = (draw @ sizes)[:, None]
    first, squares = draw @ residuals, draw @ residuals**2
    if (sizes == sizes[0]).all():
        with_size = first * sizes[0]
    else:
        with_size = draw @ (residuals * sizes[:, None])
    shift = first / rows
    spread = squares - 2 * shift * with_size + shift**2 * (draw @ sizes**2)[:, None]
    # Rounding leaves a spread near 0 where it is 0: such a resample has drawn one value only.
    flat = spread <= 1e-12 * (residuals**2).sum(axis=0)
    count = len(sizes)
    ratio = first / np.sqrt(np.where(flat, 1, spread) * count / (count - 1))
    moved = np.where(np.abs(shift) > 1e-12, np.copysign(math.inf, shift), 0)
    return np.where(flat, moved, ratio)
