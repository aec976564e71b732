"""Tuning of the abstention threshold on validation records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchlora.outputs import CitedAnswer, InvalidOutput
from searchlora.records import Record

#: The highest threshold. Above it the abstention is more likely than all other answers together; a model forced to
#: answer then tends to write a paraphrase of the abstention, which is not recognised as one.
MAX_THRESHOLD = 0.5


def tuned(records: Sequence[Record], outputs: Sequence[CitedAnswer | InvalidOutput]) -> dict[str, Any]:
    """The abstention threshold with the best `mean_f1`; empty unless scored records are of both kinds.

    Args:
        records: Validation records.
        outputs: One output per record; outputs without an abstention probability are skipped.

    Returns:
        `abstain_from`: the probability from which to abstain, at most `MAX_THRESHOLD`, the highest of equally good
        ones; and `validation`: the number of rows, and the mean F1 at the threshold.
    """
    scored = [
        (output.abstention_probability, not record["answerable"])
        for record, output in zip(records, outputs, strict=True)
        if isinstance(output, CitedAnswer) and output.abstention_probability is not None
    ]
    unanswerable = np.array([gold for _, gold in scored], dtype=bool)
    if unanswerable.all() or not unanswerable.any():
        return {}
    probabilities = np.array([probability for probability, _ in scored])
    steps = np.unique(probabilities)
    midpoints = (steps[1:] + steps[:-1]) / 2
    candidates = (MAX_THRESHOLD, *midpoints[midpoints < MAX_THRESHOLD][::-1], 0.0)  # 0: always abstain
    scores = {float(threshold): mean_f1(probabilities >= threshold, unanswerable) for threshold in candidates}
    best = max(scores, key=lambda threshold: scores[threshold])
    return {"abstain_from": best, "validation": {"rows": len(scored), "mean F1": scores[best]}}


def mean_f1(predicted: NDArray[np.bool_], gold: NDArray[np.bool_]) -> float:
    """The mean of the F1 of abstaining and the F1 of answering; the former alone often favours always abstaining.

    Args:
        predicted: Shape `(rows,)`, true where the system abstains.
        gold: Shape `(rows,)`, true where the question is unanswerable.

    Examples:
        >>> mean_f1(np.array([True, False, False]), np.array([True, True, False]))
        0.6666666666666666
    """
    return (_f1(predicted, gold) + _f1(~predicted, ~gold)) / 2


def _f1(predicted: NDArray[np.bool_], gold: NDArray[np.bool_]) -> float:
    """F1; 0 where the class is neither predicted nor present."""
    return float(2 * (predicted & gold).sum() / max(1, predicted.sum() + gold.sum()))
