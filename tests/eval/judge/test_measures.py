"""Intervals of rare shares: exact for independent pairs, wider if they are clustered in queries."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from searchlora.eval.judge.measures import rate

SIZES = np.full(25, 160.0)


def test_intervals_of_zero_and_one_are_exact():
    assert rate(np.zeros(25), SIZES) == pytest.approx((0, *proportion_confint(0, 4000, method="beta")))
    assert rate(SIZES, SIZES) == pytest.approx((1, *proportion_confint(4000, 4000, method="beta")))


def test_clustered_failures_have_a_wider_interval():
    scattered, bunched = np.full(25, 2.0), np.zeros(25)
    bunched[:5] = 10
    share, low, high = rate(scattered, SIZES)
    assert (share, low, high) == pytest.approx((50 / 4000, *proportion_confint(50, 4000, method="beta")))
    wide = rate(bunched, SIZES)
    assert wide[0] == share and wide[1] < low and wide[2] > high


@pytest.mark.slow
@pytest.mark.parametrize("bunched", [0.0001, 0.01])
def test_a_share_of_2_percent_is_covered(bunched):
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        of_query = rng.beta(0.02 * (1 / bunched - 1), 0.98 * (1 / bunched - 1), 25)
        _, low, high = rate(rng.binomial(160, of_query).astype(float), SIZES)
        hits += low <= 0.02 <= high
    assert hits / 400 >= 0.925
