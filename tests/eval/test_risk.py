"""Thresholds of confidence at a stated risk: the risk holds on new rows as often as is said."""

from __future__ import annotations

import numpy as np
import pytest

from searchlora.errors import DataError, UsageError
from searchlora.eval.risk import risk_threshold, upper_bound


def rows(rng, number=1000):
    """Confidences, and whether outputs are right: with that probability, or below 0.9 with 0.1 less."""
    confidence = rng.beta(4, 1, number)
    return confidence, rng.random(number) < np.clip(confidence - 0.1 * (confidence < 0.9), 0, 1)


def true_error(threshold):
    confidence, right = rows(np.random.default_rng(10**6), 400_000)
    return 1 - right[confidence >= threshold].mean()


@pytest.mark.parametrize("risk", [0.05, 0.1, 0.2])
def test_the_risk_is_exceeded_on_new_rows_in_one_of_ten_draws_at_most(risk):
    exceeded, coverages = 0, []
    for seed in range(200):
        try:
            chosen = risk_threshold(*rows(np.random.default_rng(seed)), risk)
        except DataError:
            coverages.append(0.0)
            continue
        coverages.append(chosen.coverage)
        exceeded += true_error(round(chosen.threshold, 2)) > risk + 0.002
    assert exceeded <= 20
    assert np.mean(coverages) > {0.05: 0.05, 0.1: 0.3, 0.2: 0.6}[risk]


def test_more_risk_decides_more():
    known = rows(np.random.default_rng(0))
    chosen = [risk_threshold(*known, risk) for risk in (0.12, 0.16, 0.25, 0.4)]
    coverages = [each.coverage for each in chosen]
    assert coverages == sorted(coverages)
    assert coverages[0] < coverages[-1] == 1.0
    assert all(each.error <= each.risk for each in chosen)


def test_ties_at_the_threshold_are_all_used():
    chosen = risk_threshold([0.5] * 600 + [0.4] * 400, [True] * 600 + [False] * 400, 0.02)
    assert (chosen.threshold, chosen.coverage, chosen.error) == (0.5, 0.6, 0.0)


def test_a_risk_that_no_threshold_holds_says_how_many_rows_it_takes():
    with pytest.raises(DataError, match="at least 228 without an error"):
        risk_threshold([0.9] * 100, [True] * 100, 0.02)
    assert risk_threshold([0.9] * 228, [True] * 228, 0.02).coverage == 1.0
    with pytest.raises(DataError):
        risk_threshold([], [], 0.02)


def test_the_bound_is_that_of_clopper_and_pearson():
    from statsmodels.stats.proportion import proportion_confint

    for errors, n in ((0, 10), (3, 200), (50, 60)):
        expected = proportion_confint(errors, n, alpha=0.1, method="beta")[1]
        assert upper_bound(errors, n, 0.05) == pytest.approx(expected)
    assert upper_bound(5, 5, 0.05) == 1.0


@pytest.mark.parametrize("risk", [0.0, 1.0, -1, float("nan")])
def test_a_risk_that_is_no_share_is_refused(risk):
    with pytest.raises(UsageError, match="not between 0 and 1"):
        risk_threshold([0.9] * 300, [True] * 300, risk)
