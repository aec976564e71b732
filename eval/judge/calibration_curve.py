"""Calibration curves: of what the judge said, how people graded it; and the expected calibration error.

Binning and the error as in Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks (ICML 2017); bins
of equal width. Intervals resample whole queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import DataError, UsageError
from searchlora.eval.intervals import bootstrap_interval
from searchlora.eval.judge.measures import rate
from searchlora.eval.trec import Qrels, Run


@dataclass(frozen=True)
class CurvePoint:
    """One point of a curve.

    Attributes:
        judged: The judge's grade, or the mean of its values in the bin.
        human: Mean human grade there.
        low, high: Its 95% interval by query; nan where there is one query only. Of a share that is 0 or 1 in every
            query it is that of `rates`.
        n: Labels.
        queries: Queries that they are from.
    """

    judged: float
    human: float
    low: float
    high: float
    n: int
    queries: int


@dataclass(frozen=True)
class CalibrationError:
    """Expected calibration error over n labels of so many queries, with its 95% percentile interval by query.

    The error cannot be below 0, so that with few labels it, and its interval with it, lie above the truth.
    """

    value: float
    low: float
    high: float
    n: int
    queries: int


def calibration_curve(
    human: Qrels, judged: Run, *, bins: int | None = None, relevant: int | None = None, seed: int = 0
) -> list[CurvePoint]:
    """The points of a calibration curve over the pairs that both judged, rising. Empty bins have none.

    Args:
        human: Query -> document -> human grade.
        judged: Query -> document -> the judge's grade, expected grade or probability.
        bins: So many bins of equal width between the least and the greatest value, or 0 to 1 where `relevant` is
            given. None: a point for each value, as fits grades.
        relevant: The human value becomes 1 from this grade on, else 0, and `judged` holds probabilities of that.

    Raises:
        DataError: when `relevant` is given and a value is no probability.
        UsageError: when no pair was judged by both.
    """
    said, truth, queries = _pairs(human, judged, relevant)
    names = np.asarray(queries, dtype=object)
    points = []
    for group in _groups(said, bins, (0.0, 1.0) if relevant is not None else (said.min(), said.max())):
        members = names[group].tolist()
        low, high = bootstrap_interval(truth[group].tolist(), members, seed=seed)
        if relevant is not None and low == high:
            _, of = np.unique(members, return_inverse=True)
            _, low, high = rate(
                np.bincount(of, weights=truth[group]).astype(np.float64), np.bincount(of).astype(np.float64)
            )
        points.append(
            CurvePoint(
                float(said[group].mean()), float(truth[group].mean()), low, high, len(members), len(set(members))
            )
        )
    return points


def expected_calibration_error(
    human: Qrels,
    probabilities: Mapping[str, Mapping[str, float]],
    *,
    relevant: int = 1,
    bins: int = 10,
    resamples: int = 2_000,
    seed: int = 0,
) -> CalibrationError:
    """How far a judge's probabilities are from the share that people found relevant: mean over bins, by their labels.

    Args:
        human: Query -> document -> human grade; relevant from grade `relevant` on.
        probabilities: Query -> document -> the judge's probability of that.

    Raises:
        DataError: when a value is no probability.
        UsageError: when no pair was judged by both.
    """
    said, truth, queries = _pairs(human, probabilities, relevant)
    _, of = np.unique(np.asarray(queries, dtype=object).astype(str), return_inverse=True)
    bin_of = np.minimum((said * bins).astype(int), bins - 1)
    # Sum of human less judged, by query and bin: all that any resample of queries needs.
    off = np.zeros((of.max() + 1, bins))
    np.add.at(off, (of, bin_of), truth - said)
    sizes = np.bincount(of)
    count = len(sizes)
    drawn = np.random.default_rng(seed).integers(0, count, size=(resamples, count))
    errors = [np.abs(off[draw].sum(axis=0)).sum() / sizes[draw].sum() for draw in drawn]
    low, high = np.quantile(errors, [0.025, 0.975]) if count > 1 else (np.nan, np.nan)
    value = float(np.abs(off.sum(axis=0)).sum() / len(said))
    return CalibrationError(value, float(low), float(high), len(said), count)


def _pairs(
    human: Qrels, judged: Run, relevant: int | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    rows = [
        (judged[query][document], grade, query)
        for query, row in human.items()
        for document, grade in row.items()
        if document in judged.get(query, {})
    ]
    if not rows:
        raise UsageError("people and the judge have no pair in common")
    said = np.array([value for value, _, _ in rows], dtype=float)
    truth = np.array([grade for _, grade, _ in rows], dtype=float)
    if relevant is None:
        return said, truth, [query for _, _, query in rows]
    odd = np.flatnonzero(~((said >= 0) & (said <= 1)))
    if len(odd):
        raise DataError(f"{said[odd[0]]} is not a probability", where=f"query {rows[odd[0]][2]}")
    return said, (truth >= relevant).astype(float), [query for _, _, query in rows]


def _groups(said: NDArray[np.float64], bins: int | None, ends: tuple[float, float]) -> list[NDArray[np.intp]]:
    if bins is None:
        return [np.flatnonzero(said == value) for value in np.unique(said)]
    width = (ends[1] - ends[0]) / bins or 1.0
    bin_of = np.minimum(((said - ends[0]) / width).astype(int), bins - 1)
    return [np.flatnonzero(bin_of == each) for each in np.unique(bin_of)]
