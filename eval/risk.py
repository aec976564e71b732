"""Thresholds of confidence at a stated risk: above which outputs may be used without a person.

Of the outputs that are used, at most a share `risk` is wrong, with a stated certainty over the validation rows. This is
selection with guaranteed risk (Geifman and El-Yaniv, NeurIPS 2017), an instance of Learn then Test (Angelopoulos,
Bates, Candès, Jordan and Lei, arXiv:2110.01052): each threshold of a fixed grid is a hypothesis "the error is above the
risk", rejected by the exact binomial bound of Clopper and Pearson at the level divided by the number of thresholds; the
lowest threshold that is left is chosen. Conformal risk control (Angelopoulos et al., ICLR 2024) bounds the expected
share of all rows instead, which says little of those that are used if they are few.

Rows must be independent of each other and of the training rows, and drawn as those that will come.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from searchlora.errors import DataError, UsageError

#: Shares of the rows that the thresholds of the grid leave.
_COVERAGES = tuple(share / 10 for share in range(10, 0, -1))

#: Probability with which the risk holds, over validation rows.
CERTAINTY = 0.9


@dataclass(frozen=True)
class RiskThreshold:
    """A threshold of confidence, and what it gave on the rows that it was chosen on.

    Attributes:
        threshold: Outputs of at least this confidence may be used.
        risk: The greatest share of wrong outputs among them, which holds with probability `certainty`.
        coverage: Share of the rows with such outputs.
        error: Share of wrong outputs among them.
        n: Number of rows.
    """

    threshold: float
    risk: float
    certainty: float
    coverage: float
    error: float
    n: int


def risk_threshold(
    confidences: Sequence[float], right: Sequence[bool], risk: float, *, certainty: float = CERTAINTY
) -> RiskThreshold:
    """The lowest threshold of the grid that holds a risk.

    Args:
        confidences: Of each output; higher is more certain.
        right: Whether each output is right.
        risk: Share of wrong outputs among those that are used, above 0 and below 1.
        certainty: Probability, over validation rows, with which the risk holds.

    Raises:
        UsageError: for a risk or a certainty that is not between 0 and 1.
        DataError: when no threshold holds the risk, because the outputs err too often, or the rows are too few.

    Examples:
        >>> confidences = [number / 1000 for number in range(1000)]
        >>> chosen = risk_threshold(confidences, [number >= 300 for number in range(1000)], risk=0.02)
        >>> round(chosen.threshold, 2), chosen.coverage, chosen.error
        (0.3, 0.7, 0.0)
    """
    for name, share in (("risk", risk), ("certainty", certainty)):
        if not 0 < share < 1:
            raise UsageError(f"the {name} {share} is not between 0 and 1")
    confidence, wrong = np.asarray(confidences, dtype=float), ~np.asarray(right, dtype=bool)
    n = len(confidence)
    for coverage in _COVERAGES:
        place = math.ceil(coverage * n) - 1
        if place < 0:
            break
        threshold = float(np.sort(confidence)[::-1][place])
        used = confidence >= threshold
        errors, number = int(wrong[used].sum()), int(used.sum())
        if upper_bound(errors, number, (1 - certainty) / len(_COVERAGES)) <= risk:
            return RiskThreshold(threshold, risk, certainty, number / n, errors / number, n)
    least = math.ceil(math.log((1 - certainty) / len(_COVERAGES)) / math.log1p(-risk))
    raise DataError(
        f"no threshold keeps the error at {risk:g} with {certainty:.0%} certainty on {n} rows",
        fix=f"Allow more risk, or give more rows: at least {least:,} without an error are needed above a threshold.",
    )


def upper_bound(errors: int, n: int, level: float) -> float:
    """Clopper and Pearson's upper bound of a share, which is exceeded with probability `level` at most.

    Examples:
        >>> round(upper_bound(0, 100, 0.05), 4)
        0.0295
    """
    from scipy import special

    return 1.0 if errors >= n else float(special.betaincinv(errors + 1, n - errors, 1 - level))
