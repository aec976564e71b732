"""A threshold on the model's probability above which it decides alone, at a stated risk of error.

Source: Angelopoulos, Bates, Candès, Jordan and Lei, Learn then Test (Annals of Applied Statistics 2025,
arXiv:2110.01052), with fixed-sequence testing; the bound of each step is that of Clopper and Pearson (1934). With
probability `confidence` over the labelled rows, the error rate among the decisions of future rows of the same kind is
at most `risk`. It does not hold for rows of another kind, such as next year's queries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from searchlora.errors import DataError, UsageError

#: Shares of the rows, in steps of one in so many, at which thresholds are tested.
STEPS = 50

#: The first step has so many times the rows that allow no error at all, where there are as many: it may have a few.
_SLACK = 2


@dataclass(frozen=True)
class SafeThreshold:
    """The lowest threshold whose risk is bounded.

    Attributes:
        above: The model decides alone where its probability is this or higher.
        risk: Upper bound of the error rate among its decisions.
        confidence: Probability, over the labelled rows, that the bound holds.
        rows: Number of labelled rows.
        decided, errors: Number of those rows at or above the threshold, and of errors among them.
    """

    above: float
    risk: float
    confidence: float
    rows: int
    decided: int
    errors: int


def threshold_at_risk(
    probabilities: Sequence[float], wrong: Sequence[bool], risk: float, *, confidence: float = 0.95
) -> SafeThreshold:
    """The lowest threshold at which the error rate among decisions is at most `risk`.

    Thresholds are tested from high to low, each by the upper bound of its error rate, until one fails; as the sequence
    is fixed before the errors are seen, no correction is needed.

    Args:
        probabilities: Of the model's answer, one per row; any score works that is higher for surer answers.
        wrong: Whether the answer is wrong. Rows must be independent: one per query or group.
        risk: Between 0 and 1, exclusive.

    Examples:
        >>> sure, unsure = [0.99] * 400, [0.5] * 100
        >>> found = threshold_at_risk([*sure, *unsure], [False] * 400 + [True] * 100, 0.02)
        >>> found.above, found.decided, found.errors
        (0.99, 400, 0)
    """
    n = len(probabilities)
    needed = check_rows(n, risk, confidence)
    order = np.argsort(-np.asarray(probabilities, dtype=float), kind="stable")
    sorted_probabilities = np.asarray(probabilities, dtype=float)[order]
    errors = np.concatenate([[0], np.cumsum(np.asarray(wrong, dtype=bool)[order])])
    found: SafeThreshold | None = None
    tested = 0
    for decided in _steps(sorted_probabilities, _SLACK * needed if n >= _SLACK * needed else needed):
        tested = tested or decided
        if error_bound(int(errors[decided]), decided, confidence) > risk:
            break
        above = float(sorted_probabilities[decided - 1])
        found = SafeThreshold(above, risk, confidence, n, decided, int(errors[decided]))
    if found is None:
        bound = error_bound(int(errors[tested]), tested, confidence)
        raise DataError(
            f"no threshold keeps an error rate of at most {risk:g}: the {tested} surest of {n} rows have"
            f" {int(errors[tested])} errors, so the rate may be {bound:.4f}",
            fix="Allow a higher risk, or give more rows.",
        )
    return found


def check_rows(n: int, risk: float, confidence: float = 0.95) -> int:
    """The number of rows without an error that are needed to show a risk, if there are as many."""
    for name, value in (("risk", risk), ("confidence", confidence)):
        if not 0 < value < 1:
            raise UsageError(f"the {name} {value:g} is not between 0 and 1", fix="Give a value such as 0.02.")
    needed = rows_without_error(risk, confidence)
    if n < needed:
        raise DataError(
            f"{n} independent rows cannot show an error rate of at most {risk:g}; {needed} right ones can",
            fix="Allow a higher risk, or label more queries.",
        )
    return needed


def rows_without_error(risk: float, confidence: float = 0.95) -> int:
    """The number of decisions without an error that shows a risk.

    Examples:
        >>> rows_without_error(0.02)
        149
    """
    return math.ceil(math.log1p(-confidence) / math.log1p(-risk))


def error_bound(errors: int, n: int, confidence: float = 0.95) -> float:
    """Upper bound of an error rate, one-sided (Clopper and Pearson 1934).

    Examples:
        >>> round(error_bound(0, 149), 4)
        0.0199
    """
    from scipy import stats

    return 1.0 if errors >= n else float(stats.beta.ppf(confidence, errors + 1, n - errors))


def _steps(probabilities: np.ndarray, first: int) -> list[int]:
    """Numbers of the surest rows at which thresholds are tested; rows of equal probability are decided together.

    They follow from the probabilities alone, not from the errors.
    """
    n = len(probabilities)
    counts = sorted({min(n, max(first, round(n * step / STEPS))) for step in range(1, STEPS + 1)})
    whole = [int(np.searchsorted(-probabilities, -probabilities[count - 1], side="right")) for count in counts]
    return list(dict.fromkeys(whole))
