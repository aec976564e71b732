"""Calibration error, curves and temperature scaling agree with scikit-learn and with plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from searchlora.errors import DataError, UsageError
from searchlora.eval.calibration import (
    BINS,
    TEMPERATURES,
    apply_temperature,
    calibration_curve,
    expected_calibration_error,
    fit_temperature,
    grade_curve,
    judge_calibration_error,
)
from tests.eval.judge.test_calibration import made, pairs


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.integers(1, 20)
)  # fmt: skip
def test_calibration_error_equals_a_plain_loop(pairs, bins):
    probability = {f"r{n}": given_ for n, (given_, _) in enumerate(pairs)}
    correct = {f"r{n}": right for n, (_, right) in enumerate(pairs)}
    off = 0.0
    for place in range(bins):
        inside = [(p, right) for p, right in pairs if min(int(p * bins), bins - 1) == place]
        if inside:
            confidence = sum(p for p, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            off += len(inside) / len(pairs) * abs(confidence - accuracy)
    assert expected_calibration_error(probability, correct, bins=bins).value == pytest.approx(off, abs=1e-12)


def test_calibration_error_refuses_values_that_are_not_probabilities():
    with pytest.raises(UsageError, match="not a probability"):
        expected_calibration_error({"1": 1.5}, {"1": True})


def test_curve_contains_the_share_of_correct_rows():
    probability = {"1": 0.05, "2": 0.15, "3": 0.95, "4": 1.0}
    curve = calibration_curve(probability, {"1": False, "2": True, "3": True, "4": True}, {"1": "q", "2": "q"}, bins=5)
    assert [(p.predicted, p.observed, p.n, p.groups) for p in curve.points] == [
        (pytest.approx(0.1), 0.5, 2, 1),
        (pytest.approx(0.975), 1.0, 2, 2),
    ]
    assert calibration_curve({}, {}).points == ()
    sure = calibration_curve({str(n): 0.9 for n in range(20)}, {str(n): True for n in range(20)}).points[0]
    assert (sure.low, sure.high) == (pytest.approx(0.025 ** (1 / 20)), 1)  # the exact binomial interval of 20 of 20


def test_points_of_the_reliability_curve():
    human, judged = made()
    points = grade_curve(human, judged)
    both = pairs(human, judged)
    assert [point.predicted for point in points] == [0, 1, 2, 3]
    assert sum(point.n for point in points) == 300
    for point in points:
        assert point.observed == pytest.approx(both[both[:, 0] == point.predicted, 1].mean())
        assert point.low <= point.observed <= point.high
        assert 0 < point.groups <= 20


def probabilities(off: float, queries: int = 60, each: int = 30):
    rng = np.random.default_rng(2)
    human, predicted = {}, {}
    for query in range(queries):
        chance = rng.beta(0.8, 1.2, each)
        human[f"q{query}"] = {f"d{at}": int(rng.random() < p) * 2 for at, p in enumerate(chance)}
        predicted[f"q{query}"] = {f"d{at}": float(np.clip(p + off, 0, 1)) for at, p in enumerate(chance)}
    return human, predicted


def test_binned_curve_equals_scikit_learn():
    from sklearn.calibration import calibration_curve as theirs

    human, predicted = probabilities(0.1)
    points = grade_curve(human, predicted, bins=10, relevant=2)
    both = pairs(human, predicted)
    share, mean = theirs(both[:, 1] >= 2, both[:, 0], n_bins=10)
    assert [point.observed for point in points] == pytest.approx(list(share))
    assert [point.predicted for point in points] == pytest.approx(list(mean))


def test_expected_calibration_error_of_calibrated_and_shifted_probabilities():
    sound = judge_calibration_error(*probabilities(0), relevant=2)
    shifted = judge_calibration_error(*probabilities(0.15), relevant=2)
    assert sound.value < 0.04
    assert shifted.value == pytest.approx(0.13, abs=0.03)
    assert sound.high < shifted.low
    assert (sound.n, sound.queries) == (1800, 60)
    human, predicted = probabilities(0.15)
    points = grade_curve(human, predicted, bins=BINS, relevant=2)
    written_out = sum(point.n * abs(point.observed - point.predicted) for point in points) / 1800
    assert shifted.value == pytest.approx(written_out)


def test_curves_refuse_invalid_probabilities_and_unpaired_values():
    with pytest.raises(DataError, match=r"query q: 1.2 is not a probability"):
        judge_calibration_error({"q": {"d": 1}}, {"q": {"d": 1.2}})
    with pytest.raises(UsageError, match="no pair in common"):
        grade_curve({"q": {"d": 1}}, {"q": {"e": 1}})


def test_calibration_error_of_a_judge_uses_the_shared_implementation():
    """One number of bins and one interval for tasks and judges."""
    human, predicted = probabilities(0.1)
    flat = {f"{q} {d}": value for q, row in predicted.items() for d, value in row.items()}
    correct = {f"{q} {d}": grade >= 2 for q, row in human.items() for d, grade in row.items()}
    judge = judge_calibration_error(human, predicted, relevant=2)
    assert judge.value == pytest.approx(expected_calibration_error(flat, correct).value, abs=1e-12)
    assert judge.low < judge.value < judge.high and BINS == 15


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0, 50.0])
def test_a_fitted_temperature_has_the_least_log_loss_within_its_bounds(factor):
    rng = np.random.default_rng(1)
    true = rng.dirichlet([1.0, 1.0, 1.0], size=800)
    labels = [int(rng.choice(3, p=row)) for row in true]
    predicted = apply_temperature(true, 1 / factor)
    fitted = fit_temperature(predicted, labels)
    assert fitted == pytest.approx(min(factor, TEMPERATURES[1]), rel=0.15)
    after = log_loss(labels, apply_temperature(predicted, fitted))
    for near in (0.97, 1.03):
        if TEMPERATURES[0] <= fitted * near <= TEMPERATURES[1]:
            assert after <= log_loss(labels, apply_temperature(predicted, fitted * near)) + 1e-9


def test_one_label_scored_as_impossible_does_not_decide_the_temperature():
    predicted = np.array([[0.7, 0.3, 0.0]] * 70 + [[0.3, 0.7, 0.0]] * 30)
    labels = [0] * 70 + [1] * 29 + [2]
    assert fit_temperature(predicted, labels) < 3
