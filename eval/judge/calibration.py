"""Calibration of judge grades to human grades on a small human sample: shift and isotonic regression.

* **shift**: grade g of the judge is mapped to the mean human grade of its n labels, shrunk towards g by `WEIGHT`
  pseudo-labels that agree with the judge: (n mean + WEIGHT g) / (n + WEIGHT). A grade without labels is unchanged.
* **isotonic**: isotonic regression (Barlow and others, Statistical Inference under Order Restrictions, 1972; by
  scikit-learn) of the human grade on the judge's grade or on its expected grade.

A calibrated grade is a mean, so it reduces bias and squared error. It can increase the absolute error, and does for
good judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import DataError, UsageError
from searchlora.eval.trec import Qrels, Run

Method = Literal["shift", "isotonic"]

#: Minimum number of human labels, and of their queries, for a calibration.
MINIMUM_LABELS = 50
MINIMUM_QUERIES = 5

#: Number of pseudo-labels that agree with the judge, in `shift`.
WEIGHT = 5.0


@dataclass(frozen=True)
class Calibration:
    """A fitted map from a judge's grade to the expected human grade.

    Attributes:
        method: `shift` or `isotonic`.
        scale: The grades, ascending.
        points: (judge's value, expected human grade), ascending; interpolated linearly between points.
        n: Number of human labels in the fit.
        queries: Number of their queries.
        invalid: Number of labels left out because the judge's value is not on the scale.
    """

    method: Method
    scale: tuple[int, ...]
    points: tuple[tuple[float, float], ...]
    n: int
    queries: int
    invalid: int

    def expected(self, grade: float) -> float:
        """The expected human grade for a judge's grade.

        Raises:
            DataError: for a value that is not on the scale (`shift`) or outside its range (`isotonic`).
        """
        if not _on_scale(grade, self.scale, self.method):
            raise DataError(f"the judge's value {grade} is not on the scale {_named(self.scale)}")
        return _applied(self.points, grade)

    def grade(self, grade: float) -> int:
        """`expected`, rounded to the nearest grade of the scale; halves round up."""
        return _rounded(self.expected(grade), self.scale)


def fit_shift(human: Qrels, judged: Run, *, scale: Sequence[int]) -> Calibration:
    """Fit a shift per grade on the pairs labelled by both.

    Args:
        human: Query -> document -> human grade.
        judged: Query -> document -> judge's grade. Pairs whose grade is not on the scale are left out and counted.
        scale: The grades of the scale.

    Raises:
        DataError: when a human grade is not on the scale.
        UsageError: when there are fewer than `MINIMUM_LABELS` labels or `MINIMUM_QUERIES` queries.

    Examples:
        >>> human = {f"q{q}": {f"d{d}": d % 3 for d in range(10)} for q in range(6)}
        >>> judged = {q: {d: min(grade + 1, 2) for d, grade in row.items()} for q, row in human.items()}
        >>> calibration = fit_shift(human, judged, scale=(0, 1, 2))
        >>> [round(calibration.expected(grade), 2) for grade in (0, 1, 2)]
        [0.0, 0.17, 1.56]
    """
    return _fit("shift", human, judged, scale)


def fit_isotonic(human: Qrels, judged: Run, *, scale: Sequence[int]) -> Calibration:
    """Fit an isotonic regression on the pairs labelled by both; arguments and errors as `fit_shift`.

    Args:
        judged: Query -> document -> judge's grade, or its expected grade, within the scale's range.
    """
    return _fit("isotonic", human, judged, scale)


_Points = tuple[tuple[float, float], ...]


def _fit(method: Method, human: Qrels, judged: Run, scale: Sequence[int]) -> Calibration:
    grades = tuple(sorted(set(scale)))
    judge_values, human_values, queries, invalid = _pairs(method, human, judged, grades)
    n_queries = len(set(queries))
    if len(human_values) < MINIMUM_LABELS or n_queries < MINIMUM_QUERIES:
        raise UsageError(
            f"{len(human_values)} human labels of {n_queries} queries are too few to calibrate a judge",
            fix=f"Label {MINIMUM_LABELS} pairs of {MINIMUM_QUERIES} queries or more.",
        )
    fit = _shift_points if method == "shift" else _isotonic_points
    return Calibration(
        method=method,
        scale=grades,
        points=fit(judge_values, human_values, grades),
        n=len(human_values),
        queries=n_queries,
        invalid=invalid,
    )


def _pairs(
    method: Method, human: Qrels, judged: Run, scale: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str], int]:
    judge_values, human_values, queries, invalid = [], [], [], 0
    for query, row in human.items():
        for document, grade in row.items():
            value = judged.get(query, {}).get(document)
            if value is None:
                continue
            if grade not in scale:
                where = f"query {query}, document {document}"
                raise DataError(f"the human grade {grade} is not on the scale {_named(scale)}", where=where)
            if not _on_scale(value, scale, method):
                invalid += 1
                continue
            judge_values.append(value)
            human_values.append(grade)
            queries.append(query)
    return np.asarray(judge_values, dtype=float), np.asarray(human_values, dtype=float), queries, invalid


def _on_scale(value: float, scale: tuple[int, ...], method: Method) -> bool:
    return value in scale if method == "shift" else scale[0] <= value <= scale[-1]


def _shift_points(
    judge_values: NDArray[np.float64], human_values: NDArray[np.float64], scale: tuple[int, ...]
) -> _Points:
    points = []
    for grade in scale:
        labels = human_values[judge_values == grade]
        points.append((float(grade), float((labels.sum() + WEIGHT * grade) / (len(labels) + WEIGHT))))
    return tuple(points)


def _isotonic_points(
    judge_values: NDArray[np.float64], human_values: NDArray[np.float64], scale: tuple[int, ...]
) -> _Points:
    from sklearn.isotonic import IsotonicRegression

    curve = IsotonicRegression(y_min=scale[0], y_max=scale[-1], out_of_bounds="clip").fit(judge_values, human_values)
    return tuple(zip(curve.X_thresholds_.tolist(), curve.y_thresholds_.tolist(), strict=True))


def _applied(points: _Points, value: float) -> float:
    """Linear interpolation between the points, constant outside. A shift has a point at every grade."""
    return float(np.interp(value, [value for value, _ in points], [expected for _, expected in points]))


def _rounded(value: float, scale: tuple[int, ...]) -> int:
    return min(scale, key=lambda grade: (abs(grade - value), -grade))


def _named(scale: tuple[int, ...]) -> str:
    return ", ".join(map(str, scale))
