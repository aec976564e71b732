"""Calibration of probabilities: expected calibration error, calibration curves and temperature scaling.

Source of all three: Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks (ICML 2017). Bins have
equal width. Intervals resample whole clusters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import UsageError
from searchlora.eval.aggregate import Aggregate
from searchlora.eval.agreement import ratio
from searchlora.eval.intervals import Floats, bootstrap_interval, proportion
from searchlora.eval.trec import Qrels, Run

#: Bins of the expected calibration error and of curves of probabilities (Guo et al. 2017).
BINS = 15

#: Bounds of a fitted temperature. A value at a bound means too few rows, not a model that is off by so much.
TEMPERATURES = (0.2, 5.0)

#: Smallest probability whose logarithm is taken, so that one label scored as impossible does not decide the fit.
_SMALLEST = 1e-12


@dataclass(frozen=True)
class CurvePoint:
    """One point of a calibration curve: a bin, or one grade.

    Attributes:
        predicted: Mean predicted value in the bin: a probability, or the judge's grade.
        observed: Mean observed value: the share that was correct, or the mean human grade.
        low, high: 95% interval of `observed` by cluster; nan with a single cluster.
        n, groups: Number of rows, and of the clusters (queries, dialogues) that they come from.
    """

    predicted: float
    observed: float
    low: float
    high: float
    n: int
    groups: int


def expected_calibration_error(probability: Mapping[str, float], correct: Mapping[str, float]) -> Aggregate:
    """Expected calibration error: mean of |mean probability − share correct| over bins, weighted by their rows.

    The bins have equal width from 0 to 1: they are then the same for every system and every resample. The error is
    never below 0, so with few rows its expectation lies above the true error.

    Args:
        probability: Row id -> the probability of the predicted label. Rows without one are not counted.
        correct: Row id -> whether the prediction is correct, or the share of raters for whom it is.

    Examples:
        >>> error = expected_calibration_error({"a": 0.9, "b": 0.9}, {"a": True, "b": False})
        >>> round(error.value, 3)
        0.4
    """
    cells = np.zeros((len(probability), BINS + 1))
    cells[:, -1] = 1
    for row, (id_, value) in zip(cells, probability.items(), strict=True):
        if not 0 <= value <= 1:
            raise UsageError(f"{value} is not a probability", where=f"row {id_}")
        row[min(int(value * BINS), BINS - 1)] = float(correct[id_]) - value
    return Aggregate(dict(zip(probability, cells, strict=True)), _calibration_error, (0.0, 1.0))


def calibration_curve(
    probability: Mapping[str, float], correct: Mapping[str, bool], clusters: Mapping[str, str] | None = None
) -> list[CurvePoint]:
    """Share of correct predictions by predicted probability, in bins of equal width from 0 to 1; none for empty bins.

    Args:
        probability, correct: As in `expected_calibration_error`.
        clusters: Row id -> its cluster; None: every row is independent.

    Examples:
        >>> points = calibration_curve({"a": 0.9, "b": 0.9}, {"a": True, "b": False})
        >>> [(point.predicted, point.observed, point.n) for point in points]
        [(0.9, 0.5, 2)]
    """
    groups = [row if clusters is None else clusters.get(row, row) for row in probability]
    predicted = np.array(list(probability.values()), dtype=float)
    observed = np.array([float(correct[row]) for row in probability])
    bin_of = np.minimum((predicted / (1.0 / BINS)).astype(int), BINS - 1)
    members = [np.flatnonzero(bin_of == number) for number in np.unique(bin_of)]
    return _points(predicted, observed, groups, members, True, 0)


def grade_curve(human: Qrels, judged: Run, *, seed: int = 0) -> list[CurvePoint]:
    """Mean human grade by the judge's grade, over the pairs that both graded, with a point for each distinct grade.

    Examples:
        >>> points = grade_curve({"q": {"d1": 0, "d2": 2}}, {"q": {"d1": 1, "d2": 1}})
        >>> [(point.predicted, point.observed, point.n) for point in points]
        [(1.0, 1.0, 2)]
    """
    pairs = [
        (judged[query][document], grade, query)
        for query, row in human.items()
        for document, grade in row.items()
        if document in judged.get(query, {})
    ]
    predicted, observed = (np.array([pair[side] for pair in pairs], dtype=float) for side in (0, 1))
    members = [np.flatnonzero(predicted == value) for value in np.unique(predicted)]
    return _points(predicted, observed, [query for _, _, query in pairs], members, False, seed)


def fit_temperature(probabilities: Floats, labels: Sequence[int] | Floats) -> float:
    """The temperature T, within `TEMPERATURES`, that minimises the mean cross-entropy with the true labels.

    Args:
        probabilities: `(rows, labels)`, each row summing to 1.
        labels: The index of the true label of each row; or soft labels `(rows, labels)`, such as the shares of the
            raters who gave each label, each row summing to 1.

    Examples:
        >>> overconfident = np.array([[0.99, 0.01]] * 10)
        >>> fit_temperature(overconfident, [0] * 7 + [1] * 3) > 1
        True
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logs = np.log(np.maximum(probabilities, _SMALLEST))
    targets = np.asarray(labels)
    if targets.ndim == 1:
        targets = np.eye(logs.shape[1])[targets]

    def loss(log_temperature: float) -> float:
        return -float((targets * log_softmax(logs / math.exp(log_temperature), axis=1)).sum(axis=1).mean())

    low, high = map(math.log, TEMPERATURES)
    return math.exp(float(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def apply_temperature(probabilities: Sequence[float] | Floats, temperature: float) -> Floats:
    """Probabilities proportional to p^(1/T), along the last axis; above 1 they become flatter, below 1 sharper.

    Examples:
        >>> apply_temperature([0.8, 0.2], 2.0).round(3).tolist()
        [0.667, 0.333]
    """
    logs = np.log(np.maximum(np.asarray(probabilities, dtype=float), _SMALLEST)) / temperature
    weights = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _calibration_error(sums: Floats) -> Floats:
    """Sums `(..., bins + 1)` of correct − probability by bin, then of rows."""
    return ratio(np.abs(sums[..., :-1]).sum(axis=-1), sums[..., -1])


def _points(
    predicted: Floats,
    observed: Floats,
    groups: Sequence[str],
    bins: Sequence[NDArray[np.intp]],
    shares: bool,
    seed: int,
) -> list[CurvePoint]:
    """A point for each bin; `shares`: `observed` holds 0 and 1 only."""
    names = np.asarray(groups, dtype=object)
    points = []
    for places in bins:
        members = names[places].tolist()
        low, high = bootstrap_interval(observed[places].tolist(), members, seed=seed)
        if shares and low == high:
            _, cluster = np.unique(members, return_inverse=True)
            hits = np.bincount(cluster, weights=observed[places]).astype(np.float64)
            _, low, high = proportion(hits, np.bincount(cluster).astype(np.float64))
        mean, share = float(predicted[places].mean()), float(observed[places].mean())
        points.append(CurvePoint(mean, share, low, high, len(members), len(set(members))))
    return points
