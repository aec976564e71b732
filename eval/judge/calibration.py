"""What an LLM judge's grades mean in human grades, learnt from a small human sample.

* **shift**: each grade g of the judge becomes the mean human grade of its n labels, shrunk towards g by `WEIGHT` labels
  that agree with the judge: (n mean + WEIGHT g) / (n + WEIGHT). A grade that the sample lacks stays as it is.
* **isotonic**: the rising step function of least squares (Barlow and others, Statistical Inference under Order
  Restrictions, 1972; by scikit-learn), of the judge's grade or of its expected grade from probabilities.

Whether it helps is measured by cross-validation that leaves whole queries out. A calibrated grade is a mean, so it
takes away bias and squared error. Absolute error it can raise, and does for judges that are good already:
`Calibration.errors` shows both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import DataError, UsageError
from searchlora.eval.intervals import bootstrap_intervals
from searchlora.eval.trec import Qrels, Run

Method = Literal["shift", "isotonic"]

#: The fewest human labels, and queries that they are from, that a calibration is fitted to.
MINIMUM_LABELS = 50
MINIMUM_QUERIES = 5

#: Labels that the judge's own grade counts for, in `shift`.
WEIGHT = 5.0

_FOLDS = 10


@dataclass(frozen=True)
class Figure:
    """A mean over labels and its 95% interval by query."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Errors:
    """How far grades are from the human ones, over labels of queries that the calibration had not seen.

    Attributes:
        of: `judge` (as it said), `expected` (calibrated), `grade` (calibrated and rounded to the scale).
        mae: Mean absolute error.
        mse: Mean squared error.
        bias: Mean of grade less human grade; above 0 is lenient.
        mae_change, mse_change: Its error less that of the judge, label by label; below 0 it helped.
    """

    of: str
    mae: Figure
    mse: Figure
    bias: Figure
    mae_change: Figure
    mse_change: Figure


@dataclass(frozen=True)
class Calibration:
    """From a judge's grade to the human grade to expect.

    Attributes:
        method: How it was fitted.
        scale: The grades there are, rising.
        points: (judge's value, expected human grade), rising; `isotonic` goes in straight lines between them.
        n: Human labels fitted to.
        queries: Queries that they are from.
        invalid: Labels left out because the judge's value was not on the scale.
        errors: Of judge, expected and grade, cross-validated by query.
    """

    method: Method
    scale: tuple[int, ...]
    points: tuple[tuple[float, float], ...]
    n: int
    queries: int
    invalid: int
    errors: tuple[Errors, ...]

    def expected(self, grade: float) -> float:
        """The human grade to expect where the judge says `grade`.

        Raises:
            DataError: for a value that is not on the scale (shift) or outside it; an invalid output is no grade.
        """
        if not _on_scale(grade, self.scale, self.method):
            raise DataError(f"the judge's value {grade} is not on the scale {_named(self.scale)}")
        return _applied(self.points, grade)

    def grade(self, grade: float) -> int:
        """`expected`, rounded to the nearest grade of the scale, from halfway up."""
        return _rounded(self.expected(grade), self.scale)

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Calibration:
        """What `to_json` made, read back.

        Raises:
            DataError: when it is something else.
        """
        try:
            return cls(
                method=values["method"],
                scale=tuple(values["scale"]),
                points=tuple((float(said), float(means)) for said, means in values["points"]),
                n=values["n"],
                queries=values["queries"],
                invalid=values["invalid"],
                errors=tuple(_read_errors(each) for each in values["errors"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"is not a calibration ({error})", fix="Fit it anew.") from None


def fit_shift(human: Qrels, judged: Run, *, scale: Sequence[int], seed: int = 0) -> Calibration:
    """Fit a shift per grade, on the pairs that both judged.

    Args:
        human: Query -> document -> human grade.
        judged: Query -> document -> the judge's grade. A pair whose grade is not on the scale is left out and counted.
        scale: The grades there are.
        seed: Of the folds and the bootstrap.

    Raises:
        DataError: when a human grade is not on the scale.
        UsageError: when there are fewer than `MINIMUM_LABELS` labels, or `MINIMUM_QUERIES` queries.
    """
    return _fit("shift", human, judged, scale, seed)


def fit_isotonic(human: Qrels, judged: Run, *, scale: Sequence[int], seed: int = 0) -> Calibration:
    """Fit a rising step function, on the pairs that both judged; as `fit_shift`.

    Args:
        judged: Query -> document -> the judge's grade, or its expected grade (`expected_grades`), anywhere within the
            scale.
    """
    return _fit("isotonic", human, judged, scale, seed)


def expected_grades(probabilities: Mapping[str, Mapping[str, Mapping[int, float]]]) -> dict[str, dict[str, float]]:
    """The mean grade of each pair: query -> document -> grade -> probability, to query -> document -> mean grade.

    Raises:
        DataError: when the probabilities of a pair are not between 0 and 1 or do not sum to 1.
    """
    means: dict[str, dict[str, float]] = {}
    for query, row in probabilities.items():
        for document, chances in row.items():
            total = math.fsum(chances.values())
            if not (abs(total - 1) < 1e-4 and min(chances.values()) >= 0):
                raise DataError(f"the probabilities sum to {total}", where=f"query {query}, document {document}")
            means.setdefault(query, {})[document] = math.fsum(g * p for g, p in chances.items()) / total
    return means


_Points = tuple[tuple[float, float], ...]


def _fit(method: Method, human: Qrels, judged: Run, scale: Sequence[int], seed: int) -> Calibration:
    grades = tuple(sorted(set(scale)))
    said, truth, queries, invalid = _pairs(method, human, judged, grades)
    found = len(set(queries))
    if len(truth) < MINIMUM_LABELS or found < MINIMUM_QUERIES:
        raise UsageError(
            f"{len(truth)} human labels of {found} queries are too few to calibrate a judge",
            fix=f"Label {MINIMUM_LABELS} pairs of {MINIMUM_QUERIES} queries or more.",
        )
    fit = _shift_points if method == "shift" else _isotonic_points
    return Calibration(
        method=method,
        scale=grades,
        points=fit(said, truth, grades),
        n=len(truth),
        queries=found,
        invalid=invalid,
        errors=_validated(fit, said, truth, queries, grades, seed),
    )


def _pairs(
    method: Method, human: Qrels, judged: Run, scale: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str], int]:
    said, truth, queries, invalid = [], [], [], 0
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
            said.append(value)
            truth.append(grade)
            queries.append(query)
    return np.asarray(said, dtype=float), np.asarray(truth, dtype=float), queries, invalid


def _on_scale(value: float, scale: tuple[int, ...], method: Method) -> bool:
    return value in scale if method == "shift" else scale[0] <= value <= scale[-1]


def _shift_points(said: NDArray[np.float64], truth: NDArray[np.float64], scale: tuple[int, ...]) -> _Points:
    points = []
    for grade in scale:
        labels = truth[said == grade]
        points.append((float(grade), float((labels.sum() + WEIGHT * grade) / (len(labels) + WEIGHT))))
    return tuple(points)


def _isotonic_points(said: NDArray[np.float64], truth: NDArray[np.float64], scale: tuple[int, ...]) -> _Points:
    from sklearn.isotonic import IsotonicRegression

    curve = IsotonicRegression(y_min=scale[0], y_max=scale[-1], out_of_bounds="clip").fit(said, truth)
    return tuple(zip(curve.X_thresholds_.tolist(), curve.y_thresholds_.tolist(), strict=True))


def _applied(points: _Points, value: float) -> float:
    """Straight lines between the points, level outside. The points of a shift stand at every grade there is."""
    return float(np.interp(value, [said for said, _ in points], [means for _, means in points]))


def _rounded(value: float, scale: tuple[int, ...]) -> int:
    return min(scale, key=lambda grade: (abs(grade - value), -grade))


def _validated(
    fit: Callable[[NDArray[np.float64], NDArray[np.float64], tuple[int, ...]], _Points],
    said: NDArray[np.float64],
    truth: NDArray[np.float64],
    queries: list[str],
    scale: tuple[int, ...],
    seed: int,
) -> tuple[Errors, ...]:
    names = np.random.default_rng(seed).permutation(sorted(set(queries)))
    fold_of = {str(name): at % _FOLDS for at, name in enumerate(names)}
    folds = np.array([fold_of[query] for query in queries])
    expected = np.empty(len(said))
    for fold in set(folds.tolist()):
        kept = folds != fold
        points = fit(said[kept], truth[kept], scale)
        expected[~kept] = [_applied(points, value) for value in said[~kept]]
    rounded = np.array([_rounded(value, scale) for value in expected])
    return tuple(
        _errors(name, values - truth, said - truth, queries, seed)
        for name, values in (("judge", said), ("expected", expected), ("grade", rounded))
    )


def _errors(name: str, off: NDArray[np.float64], before: NDArray[np.float64], queries: list[str], seed: int) -> Errors:
    columns = np.stack([np.abs(off), off**2, off, np.abs(off) - np.abs(before), off**2 - before**2], axis=1)
    ends = bootstrap_intervals(columns, queries, seed=seed)
    figures = (
        Figure(float(value), float(low), float(high))
        for value, (low, high) in zip(columns.mean(axis=0), ends, strict=True)
    )
    return Errors(name, *figures)


def _read_errors(values: Mapping[str, Any]) -> Errors:
    return Errors(values["of"], **{name: Figure(**figure) for name, figure in values.items() if name != "of"})


def _named(scale: tuple[int, ...]) -> str:
    return ", ".join(map(str, scale))
