"""Thresholds at a stated risk: the guarantee, by simulation, and what is refused."""

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
)
from searchlora.eval.risk import error_bound, rows_without_error, threshold_at_risk


def drawn(chance, n):
    """Probabilities of a model that is a little too sure, and whether it errs."""
    probabilities = chance.beta(12, 1, n)
    return probabilities, chance.random(n) > probabilities**1.2


@pytest.mark.parametrize("risk", [0.05, 0.1])
def test_the_error_rate_of_future_decisions_exceeds_the_risk_in_less_than_one_of_twenty_draws(risk):
    chance = np.random.default_rng(7)
    future, wrong = drawn(chance, 200_000)
    exceeded, coverage = 0, []
    for _ in range(200):
        try:
            found = threshold_at_risk(*drawn(chance, 600), risk)
        except DataError:
            coverage.append(0.0)
            continue
        decided = future >= found.above
        coverage.append(decided.mean())
        exceeded += wrong[decided].mean() > risk
    assert exceeded <= 16  # 10 expected at most; 16 or more has a probability of 4.4% then
    assert np.mean(coverage) > 0.15


def test_rows_of_equal_probability_are_decided_together():
    probabilities = [0.9] * 500 + [0.8] * 500
    found = threshold_at_risk(probabilities, [False] * 500 + [True] * 500, 0.02)
    assert (found.above, found.decided, found.errors, found.rows) == (0.9, 500, 0, 1000)


def test_all_rows_are_decided_where_no_answer_is_wrong():
    found = threshold_at_risk(np.linspace(0.2, 1, 400), [False] * 400, 0.01)
    assert found.above == pytest.approx(0.2)
    assert found.decided == 400


@pytest.mark.parametrize("n", [160, 200, 297])
def test_between_one_and_two_times_the_rows_that_are_needed_the_surest_can_decide(n):
    found = threshold_at_risk(np.linspace(1, 0.1, n), [number >= 149 for number in range(n)], 0.02)
    assert 149 <= found.decided < 160


@pytest.mark.parametrize(
    ("wrong", "risk", "says"),
    [
        ([False] * 100, 0.02, r"100 independent rows cannot show an error rate of at most 0\.02; 149 right"),
        ([], 0.05, "0 independent rows cannot show"),
        ([True] * 500 + [False] * 500, 0.05, r"no threshold keeps an error rate of at most 0\.05: the 1000 surest"),
        *(([False], risk, "is not between 0 and 1") for risk in (0, 1, 1.5, -0.1, float("nan"))),
    ],
)
def test_what_shows_no_risk_is_refused(wrong, risk, says):
    with pytest.raises((DataError, UsageError), match=says):
        threshold_at_risk([0.9] * len(wrong), wrong, risk)


def test_the_bound_is_exact():
    """With p at the bound, so few errors have a probability of 5%."""
    from scipy import stats

    for errors, n in [(0, 50), (3, 120), (40, 400)]:
        assert stats.binom.cdf(errors, n, error_bound(errors, n)) == pytest.approx(0.05)
    assert error_bound(5, 5) == 1.0
    assert error_bound(0, rows_without_error(0.02)) <= 0.02 < error_bound(0, rows_without_error(0.02) - 1)


# Calibration error, curves and temperature scaling agree with scikit-learn and with plain loops


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_error_equals_a_plain_loop(pairs):
    probability = {f"r{n}": given_ for n, (given_, _) in enumerate(pairs)}
    correct = {f"r{n}": right for n, (_, right) in enumerate(pairs)}
    off = 0.0
    for place in range(BINS):
        inside = [(p, right) for p, right in pairs if min(int(p * BINS), BINS - 1) == place]
        if inside:
            confidence = sum(p for p, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            off += len(inside) / len(pairs) * abs(confidence - accuracy)
    assert expected_calibration_error(probability, correct).value == pytest.approx(off, abs=1e-12)
    with pytest.raises(UsageError, match="not a probability"):
        expected_calibration_error({"1": 1.5}, {"1": True})


def test_curve_contains_the_share_of_correct_rows():
    probability = {"1": 0.02, "2": 0.06, "3": 0.95, "4": 1.0}
    points = calibration_curve(probability, {"1": False, "2": True, "3": True, "4": True}, {"1": "q", "2": "q"})
    assert [(p.predicted, p.observed, p.n, p.groups) for p in points] == [
        (pytest.approx(0.04), 0.5, 2, 1),
        (pytest.approx(0.975), 1.0, 2, 2),
    ]
    assert calibration_curve({}, {}) == []
    sure = calibration_curve({str(n): 0.9 for n in range(20)}, {str(n): True for n in range(20)})[0]
    assert (sure.low, sure.high) == (pytest.approx(0.025 ** (1 / 20)), 1)  # the exact binomial interval of 20 of 20


def test_points_of_the_reliability_curve():
    rng = np.random.default_rng(0)
    human, judged = {}, {}
    for query in range(20):
        grades = rng.choice(4, 15, p=[0.45, 0.25, 0.2, 0.1])
        predicted = np.clip(grades + rng.choice([0, 1], 15, p=[0.2, 0.8]), 0, 3)
        human[f"q{query}"] = {f"d{at}": int(grade) for at, grade in enumerate(grades)}
        judged[f"q{query}"] = {f"d{at}": int(grade) for at, grade in enumerate(predicted)}
    points = grade_curve(human, judged)
    both = np.array([(judged[q][d], grade) for q, row in human.items() for d, grade in row.items()], dtype=float)
    assert grade_curve({"q": {"d": 1}}, {"q": {"e": 1}}) == []
    assert [point.predicted for point in points] == [0, 1, 2, 3]
    assert sum(point.n for point in points) == 300
    for point in points:
        assert point.observed == pytest.approx(both[both[:, 0] == point.predicted, 1].mean())
        assert point.low <= point.observed <= point.high
        assert 0 < point.groups <= 20


def test_binned_curve_equals_scikit_learn():
    from sklearn.calibration import calibration_curve as theirs

    rng = np.random.default_rng(1)
    probability = {f"r{n}": float(rng.beta(2, 2)) for n in range(400)}
    correct = {row: bool(rng.random() < value) for row, value in probability.items()}
    points = calibration_curve(probability, correct)
    share, mean = theirs(list(correct.values()), list(probability.values()), n_bins=BINS)
    assert [point.observed for point in points] == pytest.approx(list(share))
    assert [point.predicted for point in points] == pytest.approx(list(mean))
    off = sum(point.n * abs(point.observed - point.predicted) for point in points) / 400
    assert expected_calibration_error(probability, correct).value == pytest.approx(off)


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
