"""Confidence sequences: intervals that hold at every look together, so that a figure may be watched as it grows.

A value between 0 and 1 with mean p satisfies E[(q/p)^x ((1-q)/(1-p))^(1-x)] <= 1 for every q, with equality for 0 and
1, because the function is convex in x. The product over independent values, averaged over q with a Beta(a, b)
distribution, is therefore a nonnegative supermartingale, and by Ville's inequality it exceeds 1/alpha with probability
alpha at most, whenever one looks. The interval has all p for which it is at most 1/alpha. For values that are 0 or 1
this is Robbins' beta-binomial mixture (Statistical methods related to the law of the iterated logarithm, 1970; Howard,
Ramdas, McAuliffe and Sekhon, Time-uniform confidence sequences, Annals of Statistics 49, 2021, section 3.4).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from searchlora.errors import UsageError

#: Parameters of the mixture: Jeffreys' prior, which suits rare events.
_A = _B = 0.5

#: Precision of the ends.
_TOLERANCE = 1e-9


class Sum(NamedTuple):
    """The sum of n independent values between 0 and 1."""

    total: float
    n: int

    @property
    def mean(self) -> float:
        """Their mean; nan without any."""
        return self.total / self.n if self.n else math.nan


def mean_bounds(values: Sum, alpha: float = 0.05) -> tuple[float, float]:
    """The interval (low, high) of the mean, valid for all n together; 0 and 1 without values.

    Args:
        alpha: Probability that the interval ever misses the mean, at most.

    Examples:
        >>> low, high = mean_bounds(Sum(50, 100))
        >>> round(low, 2), round(high, 2)
        (0.34, 0.66)
        >>> mean_bounds(Sum(0, 0))
        (0.0, 1.0)
    """
    total, n = values
    if not 0 < alpha < 1:
        raise UsageError(f"alpha is {alpha:g}", fix="Give a number between 0 and 1.")
    if not 0 <= total <= n:
        raise UsageError(f"the sum of {n} values between 0 and 1 is {total:g}")
    if n == 0:
        return 0.0, 1.0
    mean, limit = total / n, -math.log(alpha)
    low = 0.0 if total == 0 else _end(0.0, mean, total, n, limit)
    high = 1.0 if total == n else _end(1.0, mean, total, n, limit)
    return low, high


def _end(outer: float, inner: float, total: float, n: int, limit: float) -> float:
    """Where the logarithm of the mixture crosses the limit, by bisection between an end of [0, 1] and the mean."""
    while abs(outer - inner) > _TOLERANCE:
        middle = (outer + inner) / 2
        if _log_mixture(middle, total, n) > limit:
            outer = middle
        else:
            inner = middle
    return outer


def _log_mixture(p: float, total: float, n: int) -> float:
    mixed = _log_beta(_A + total, _B + n - total) - _log_beta(_A, _B)
    return mixed - total * math.log(p) - (n - total) * math.log1p(-p)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
