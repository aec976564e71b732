"""Alternative intervals of means for the comparison. All take values (rows, columns) and return (columns, 2).

Percentile, BCa and bootstrap-t: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 12 to 14; the
BCa acceleration of a mean is a sixth of its skewness. BCa equals scipy.stats.bootstrap's (tested). Hall's transform of
the bootstrap-t: On the removal of skewness by transformation, JRSS B 54 (1992).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

_TAILS = (0.025, 0.975)


def student(values: Floats) -> Floats:
    """Student's interval: mean ± t · standard error."""
    count = len(values)
    half = stats.t.ppf(_TAILS[1], count - 1) * values.std(axis=0, ddof=1) / np.sqrt(count)
    return np.stack([values.mean(axis=0) - half, values.mean(axis=0) + half], axis=1)


def resampled(values: Floats, draw: Floats) -> dict[str, Floats]:
    """Percentile, BCa and two bootstrap-t intervals from the same resamples.

    Args:
        draw: (resamples, rows): how often each row was drawn.
    """
    count = len(values)
    means = draw @ values / count
    spread = np.sqrt(np.maximum(draw @ values**2 / count - means**2, 0))
    ordered = np.sort(means, axis=0)
    return {
        "percentile": np.quantile(means, _TAILS, axis=0).T,
        "BCa": _bca(values, ordered),
        "bootstrap-t": _bootstrap_t(values, means, spread),
        "bootstrap-t, Hall's transform": _hall(values, draw),
    }


def _bca(values: Floats, ordered: Floats) -> Floats:
    mean, resamples = values.mean(axis=0), len(ordered)
    below = ((ordered < mean).sum(axis=0) + (ordered == mean).sum(axis=0) / 2) / resamples
    bias = stats.norm.ppf(np.clip(below, 1 / resamples, 1 - 1 / resamples))
    residuals = values - mean
    squares = (residuals**2).sum(axis=0)
    acceleration = np.divide((residuals**3).sum(axis=0), 6 * squares**1.5, out=np.zeros_like(mean), where=squares > 0)
    ends = []
    for tail in stats.norm.ppf(_TAILS):
        level = stats.norm.cdf(bias + (bias + tail) / (1 - acceleration * (bias + tail)))
        index = np.clip(np.round(level * (resamples - 1)), 0, resamples - 1).astype(int)
        ends.append(ordered[index, np.arange(ordered.shape[1])])
    return np.stack(ends, axis=1)


def _bootstrap_t(values: Floats, means: Floats, spread: Floats) -> Floats:
    mean, dispersion = values.mean(axis=0), values.std(axis=0)
    flat = spread <= 1e-9 * dispersion
    moved = np.where(np.abs(means - mean) > 1e-12, np.copysign(np.inf, means - mean), 0)
    ratio = np.where(flat, moved, (means - mean) / np.where(flat, 1, spread))
    high, low = np.quantile(ratio, _TAILS[::-1], axis=0, method="nearest")
    with np.errstate(invalid="ignore"):
        ends = np.where(dispersion > 0, [mean - high * dispersion, mean - low * dispersion], mean)
    bounded: Floats = np.clip(ends, values.min(axis=0), values.max(axis=0)).T
    return bounded


def _hall(values: Floats, draw: Floats) -> Floats:
    count, mean = len(values), values.mean(axis=0)
    residuals = values - mean
    first, squares, cubes = (draw @ residuals**power / count for power in (1, 2, 3))
    spread, third = squares - first**2, cubes - 3 * first * squares + 2 * first**3
    dispersion = (residuals**2).mean(axis=0)
    flat = spread <= 1e-12 * dispersion
    spread = np.where(flat, 1, spread)
    t, skew = first / np.sqrt(spread), third / spread**1.5
    bent = t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / (6 * count)
    moved = np.where(np.abs(first) > 1e-12, np.copysign(np.inf, first), 0)
    tails = np.quantile(np.where(flat, moved, bent), _TAILS[::-1], axis=0, method="nearest")
    skew = np.divide((residuals**3).mean(axis=0), dispersion**1.5, out=np.zeros_like(dispersion), where=dispersion > 0)
    bend = np.where(np.abs(skew) > 1e-6, skew, 1)
    with np.errstate(invalid="ignore"):
        straight = 3 / bend * (np.cbrt(1 + bend * (tails - skew / (6 * count))) - 1)
        ends = np.where(
            dispersion > 0, mean - np.where(np.abs(skew) > 1e-6, straight, tails) * np.sqrt(dispersion), mean
        )
    bounded: Floats = np.clip(ends, values.min(axis=0), values.max(axis=0)).T
    return bounded
