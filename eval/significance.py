"""Paired tests and corrections, for rows that may come in dependent groups (clusters).

Paired randomisation by flipping the sign of differences, as advised for retrieval by Smucker, Allan and
Carterette (CIKM 2007); with the +1 of Phipson and Smyth (2010), so that p is never 0. Beside it the paired t test, with
the standard error over clusters and as many degrees of freedom as clusters less one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from searchlora.errors import UsageError
from searchlora.eval.intervals import Floats, blocks, bootstrap_intervals, by_cluster, errors
from searchlora.eval.power import detectable_effect


@dataclass(frozen=True)
class PairedDifference:
    """How system a differs from system b over the same rows.

    Attributes:
        difference: Mean of a minus mean of b.
        low, high: Its 95% interval; nan where there is one cluster only.
        p: Two-sided, by paired randomisation.
        wins, losses, ties: Rows on which a is above, below, level with b.
        p_t: Two-sided, by the paired t test over clusters; nan where there is one cluster only, 1 where no row differs.
        effect: Cohen's d_z: the difference divided by the standard deviation of the rows' differences; infinite where
            all rows differ by the same, 0 where none differs.
        mde: Minimum detectable effect: the smallest true difference, in the unit of the measure, that the t test finds
            with power 0.8 at the two-sided level 0.05, for this many clusters of this spread.
    """

    difference: float
    low: float
    high: float
    p: float
    wins: int
    losses: int
    ties: int
    p_t: float
    effect: float
    mde: float


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence[str] | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Compare two systems row by row; see `paired_differences`."""
    column = (np.asarray(a, dtype=float) - np.asarray(b, dtype=float))[:, None] if len(a) == len(b) else None
    if column is None:
        raise UsageError(f"{len(a)} values cannot be paired with {len(b)}")
    return paired_differences(column, clusters, resamples=resamples, seed=seed)[0]


def paired_differences(
    differences: Floats, clusters: Sequence[str] | None = None, *, resamples: int = 10_000, seed: int = 0
) -> list[PairedDifference]:
    """Interval and paired randomisation test for several columns of differences over the same rows.

    Under the null the sign of a difference is arbitrary; where rows come in clusters, the signs of a whole cluster
    flip together. Ties stay in: they are differences of 0.

    Args:
        differences: (rows, columns), a minus b.
        clusters: The group of each row.
    """
    sums, sizes = by_cluster(differences, clusters)
    intervals = bootstrap_intervals(differences, clusters, resamples=resamples, seed=seed)
    chances = _sign_flip_p(sums, resamples, np.random.default_rng(seed))
    by_t, effects, detectable = _t_tests(differences, sums, sizes)
    return [
        PairedDifference(
            difference=float(column.mean()),
            low=float(low),
            high=float(high),
            p=float(p),
            wins=int((column > 0).sum()),
            losses=int((column < 0).sum()),
            ties=int((column == 0).sum()),
            p_t=float(p_t),
            effect=float(effect),
            mde=float(mde),
        )
        for column, (low, high), p, p_t, effect, mde in zip(
            differences.T, intervals, chances, by_t, effects, detectable, strict=True
        )
    ]


@dataclass(frozen=True)
class WeightedDifference:
    """How the weighted mean of system a differs from that of b: as `PairedDifference`."""

    difference: float
    low: float
    high: float
    p: float


def weighted_differences(
    differences: Floats,
    weights: Floats,
    clusters: Sequence[str] | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[WeightedDifference]:
    """`paired_differences` of weighted means: Σ w·(a − b) / Σ w, where the signs of whole clusters flip.

    Args:
        differences: (rows, columns), a minus b.
        weights: (rows,), not negative and not all 0.
        clusters: The group of each row.
    """
    sums, sizes = by_cluster(differences, clusters, weights)
    intervals = bootstrap_intervals(differences, clusters, weights=weights, resamples=resamples, seed=seed)
    chances = _sign_flip_p(sums, resamples, np.random.default_rng(seed))
    means = sums.sum(axis=0) / sizes.sum()
    return [
        WeightedDifference(float(mean), float(low), float(high), float(p))
        for mean, (low, high), p in zip(means, intervals, chances, strict=True)
    ]


def correct(pvalues: Sequence[float], method: str = "holm") -> list[float]:
    """Correct p values for their number: `holm` (family-wise) or `bh` (false discovery rate), by statsmodels.

    Raises:
        UsageError: for another method.
    """
    from statsmodels.stats.multitest import multipletests

    methods = {"holm": "holm", "bh": "fdr_bh"}
    if method not in methods:
        raise UsageError(f"there is no correction '{method}'", fix=f"Known: {', '.join(methods)}.")
    if not pvalues:
        return []
    return [float(p) for p in multipletests(list(pvalues), method=methods[method])[1]]


def _t_tests(differences: Floats, sums: Floats, sizes: Floats) -> tuple[Floats, Floats, Floats]:
    """p of the paired t test, effect and minimum detectable effect, for each column."""
    from scipy import stats

    count = len(sums)
    if count < 2:
        unknown = np.full(sums.shape[1], np.nan)
        return unknown, unknown, unknown
    means, _, error = errors(sums, sizes)
    spread = differences.std(axis=0, ddof=1)
    # Rounding leaves a spread near 0 where it is 0.
    scale = 1e-12 * np.abs(differences).max(axis=0)
    error, spread = np.where(error <= scale, 0, error), np.where(spread <= scale, 0, spread)
    means = np.where(np.abs(means) <= scale, 0, means)
    with np.errstate(divide="ignore", invalid="ignore"):
        # 0 / 0, no difference and no spread, is no evidence and no effect.
        ratio, effects = np.nan_to_num([means / error, means / spread], nan=0.0, posinf=np.inf, neginf=-np.inf)
    by_t = 2 * stats.t.sf(np.abs(ratio), count - 1)
    return by_t, effects, detectable_effect(count) * error * math.sqrt(count)


def _sign_flip_p(sums: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    observed = np.abs(sums.sum(axis=0))
    # Sums in another order differ in their last digits; what is equal but for those counts as equal.
    threshold = observed - 1e-10 * np.abs(sums).sum(axis=0)
    reached: Any = np.zeros(sums.shape[1])
    for block in blocks(resamples, len(sums)):
        signs = rng.integers(0, 2, size=(block, len(sums)), dtype=np.int8).astype(float) * 2 - 1
        reached += (np.abs(signs @ sums) >= threshold).sum(axis=0)
    return np.asarray((reached + 1) / (resamples + 1))
