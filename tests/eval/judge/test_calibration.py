"""Calibration of grades: scikit-learn's isotonic regression, rounded to the scale."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.errors import DataError, UsageError
from searchlora.eval.judge.calibration import MINIMUM_LABELS, Calibration, fit_calibration

SCALE = (0, 1, 2, 3)


def made(queries: int = 20, each: int = 15):
    """Human grades and those of a judge that gives one more, mostly."""
    rng = np.random.default_rng(0)
    human, judged = {}, {}
    for query in range(queries):
        grades = rng.choice(4, each, p=[0.45, 0.25, 0.2, 0.1])
        predicted = np.clip(grades + rng.choice([0, 1], each, p=[0.2, 0.8]), 0, 3)
        human[f"q{query}"] = {f"d{at}": int(grade) for at, grade in enumerate(grades)}
        judged[f"q{query}"] = {f"d{at}": int(grade) for at, grade in enumerate(predicted)}
    return human, judged


def test_isotonic_regression_equals_scikit_learn():
    from sklearn.isotonic import IsotonicRegression

    human, judged = made()
    rng = np.random.default_rng(1)
    fine = {q: {d: float(np.clip(g + rng.normal(0, 0.3), 0, 3)) for d, g in row.items()} for q, row in judged.items()}
    found = fit_calibration(human, fine, scale=SCALE)
    both = np.array([(fine[q][d], grade) for q, row in human.items() for d, grade in row.items()], dtype=float)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(both[:, 0], both[:, 1])
    grid = np.linspace(0, 3, 50)
    assert [found.expected(value) for value in grid] == pytest.approx(theirs.predict(grid))
    assert (found.n, found.queries) == (300, 20)


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=MINIMUM_LABELS, max_size=120))
def test_calibrated_grades_stay_on_the_scale_and_are_monotone(labels):
    human = {f"q{at % 7}": {} for at in range(7)}
    judged = {query: {} for query in human}
    for at, (predicted, truth) in enumerate(labels):
        human[f"q{at % 7}"][f"d{at}"] = truth
        judged[f"q{at % 7}"][f"d{at}"] = predicted
    found = fit_calibration(human, judged, scale=SCALE)
    values = [found.expected(grade) for grade in SCALE]
    assert all(0 <= value <= 3 for value in values) and values == sorted(values)
    assert all(found.grade(grade) in SCALE for grade in SCALE)


def test_rounding_uses_the_nearest_grade_of_the_scale():
    found = Calibration((0, 1, 3), ((0.0, 0.5), (3.0, 2.0)), 50, 5)
    assert [found.grade(value) for value in (0, 1, 3)] == [1, 1, 3]


def test_invalid_grades_are_left_out():
    human, judged = made()
    clean = fit_calibration(human, judged, scale=SCALE)
    human["q0"]["odd"], judged["q0"]["odd"] = 0, 10
    human["q1"]["nan"], judged["q1"]["nan"] = 0, float("nan")
    human["q2"]["not asked"] = 1
    assert fit_calibration(human, judged, scale=SCALE) == clean


def test_invalid_calibration_arguments_are_errors():
    with pytest.raises(UsageError, match="60 human labels of 4 queries"):
        fit_calibration(*made(queries=4), scale=SCALE)
    with pytest.raises(UsageError, match="40 human labels of 10 queries"):
        fit_calibration(*made(queries=10, each=4), scale=SCALE)
    human, judged = made()
    human["q3"]["d1"] = 7
    with pytest.raises(DataError, match="topic q3, document d1: the human grade 7"):
        fit_calibration(human, judged, scale=SCALE)
