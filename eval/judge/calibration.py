"""Calibration of judge grades to human grades on a small human sample, by isotonic regression.

Isotonic regression (Barlow and others, Statistical Inference under Order Restrictions, 1972; by scikit-learn) of the
human grade on the judge's. A calibrated grade is a mean, so it reduces bias and squared error. It can increase the
absolute error, and does for good judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from searchlora.errors import UsageError
from searchlora.eval.judge.labels import check_grades
from searchlora.eval.trec import Qrels, Run

#: Minimum number of human labels, and of their queries, for a calibration.
MINIMUM_LABELS = 50
MINIMUM_QUERIES = 5


@dataclass(frozen=True)
class Calibration:
    """A fitted map from a judge's grade to the expected human grade.

    Attributes:
        scale: The grades, ascending.
        points: (judge's grade, expected human grade), ascending; interpolated linearly, and constant outside.
        n: Number of human labels in the fit.
        queries: Number of their queries.
    """

    scale: tuple[int, ...]
    points: tuple[tuple[float, float], ...]
    n: int
    queries: int

    def expected(self, grade: float) -> float:
        """The expected human grade for a judge's grade."""
        judged, expected = zip(*self.points, strict=True)
        return float(np.interp(grade, judged, expected))

    def grade(self, grade: float) -> int:
        """`expected`, rounded to the nearest grade of the scale; halves round up."""
        expected = self.expected(grade)
        return min(self.scale, key=lambda grade: (abs(grade - expected), -grade))


def fit_calibration(human: Qrels, judged: Run, *, scale: Sequence[int]) -> Calibration:
    """Fit a calibration on the pairs labelled by both.

    Args:
        human: Query -> document -> human grade.
        judged: Query -> document -> judge's grade. Pairs whose grade is outside the scale's range are left out.
        scale: The grades of the scale.

    Raises:
        DataError: when a human grade is not on the scale.
        UsageError: when there are fewer than `MINIMUM_LABELS` labels or `MINIMUM_QUERIES` queries.

    Examples:
        >>> human = {f"q{q}": {f"d{d}": d % 3 for d in range(10)} for q in range(6)}
        >>> judged = {q: {d: min(grade + 1, 2) for d, grade in row.items()} for q, row in human.items()}
        >>> calibration = fit_calibration(human, judged, scale=(0, 1, 2))
        >>> [round(calibration.expected(grade), 2) for grade in (0, 1, 2)]
        [0.0, 0.0, 1.5]
    """
    from sklearn.isotonic import IsotonicRegression

    grades = tuple(sorted(set(scale)))
    check_grades(human, grades)
    pairs = [
        (value, grade, query)
        for query, row in human.items()
        for document, grade in row.items()
        if (value := judged.get(query, {}).get(document)) is not None and grades[0] <= value <= grades[-1]
    ]
    queries = len({query for _, _, query in pairs})
    if len(pairs) < MINIMUM_LABELS or queries < MINIMUM_QUERIES:
        raise UsageError(
            f"{len(pairs)} human labels of {queries} queries are too few to calibrate a judge",
            fix=f"Label {MINIMUM_LABELS} pairs of {MINIMUM_QUERIES} queries or more.",
        )
    curve = IsotonicRegression(y_min=grades[0], y_max=grades[-1], out_of_bounds="clip")
    curve.fit([value for value, _, _ in pairs], [grade for _, grade, _ in pairs])
    points = tuple(zip(curve.X_thresholds_.tolist(), curve.y_thresholds_.tolist(), strict=True))
    return Calibration(grades, points, len(pairs), queries)
