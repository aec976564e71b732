"""Thresholds at a stated risk: the guarantee, by simulation, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from searchlora.errors import DataError, UsageError
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


def test_too_few_rows_are_refused_with_the_number_that_is_needed():
    with pytest.raises(DataError, match=r"100 independent rows cannot show an error rate of at most 0\.02; 149 right"):
        threshold_at_risk([0.9] * 100, [False] * 100, 0.02)


@pytest.mark.parametrize("n", [160, 200, 297])
def test_between_one_and_two_times_the_rows_that_are_needed_the_surest_can_decide(n):
    found = threshold_at_risk(np.linspace(1, 0.1, n), [number >= 149 for number in range(n)], 0.02)
    assert 149 <= found.decided < 160


def test_too_many_errors_are_refused():
    with pytest.raises(DataError, match=r"no threshold keeps an error rate of at most 0\.05: the 1000 surest"):
        threshold_at_risk([0.9] * 1000, [True] * 500 + [False] * 500, 0.05)


@pytest.mark.parametrize("risk", [0, 1, 1.5, -0.1, float("nan")])
def test_a_risk_is_between_zero_and_one(risk):
    with pytest.raises(UsageError, match="is not between 0 and 1"):
        threshold_at_risk([0.9], [False], risk)


def test_no_row_is_refused():
    with pytest.raises(DataError, match="0 independent rows cannot show"):
        threshold_at_risk([], [], 0.05)


def test_the_bound_is_exact():
    """With p at the bound, so few errors have a probability of 5%."""
    from scipy import stats

    for errors, n in [(0, 50), (3, 120), (40, 400)]:
        assert stats.binom.cdf(errors, n, error_bound(errors, n)) == pytest.approx(0.05)
    assert error_bound(5, 5) == 1.0
    assert error_bound(0, rows_without_error(0.02)) <= 0.02 < error_bound(0, rows_without_error(0.02) - 1)
