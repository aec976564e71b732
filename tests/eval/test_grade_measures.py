"""Measures of grades over rows, and intervals of rare shares: exact for independent pairs, wider if clustered."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics
from statsmodels.stats.proportion import proportion_confint

from searchlora.errors import UsageError
from searchlora.eval.grade_measures import grade_measures
from searchlora.eval.intervals import proportion

SIZES = np.full(25, 160.0)


def test_measures_over_rows_count_an_invalid_grade_as_the_worst():
    measures = grade_measures((0, 1, 2, 3), 2)
    rng = np.random.default_rng(1)
    gold = {f"r{n}": int(rng.integers(4)) for n in range(80)}
    predicted = {row: grade if rng.random() < 0.5 else int(rng.integers(4)) for row, grade in gold.items()}
    pair = list(gold.values()), list(predicted.values())
    over_rows = {name: measure.aggregate(gold, predicted).value for name, measure in measures.items()}
    assert over_rows["kappa"] == pytest.approx(metrics.cohen_kappa_score(*pair))
    assert over_rows["kappa_quadratic"] == pytest.approx(metrics.cohen_kappa_score(*pair, weights="quadratic"))
    two = [[grade >= 2 for grade in side] for side in pair]
    assert over_rows["kappa_binary"] == pytest.approx(metrics.cohen_kappa_score(*two))
    assert over_rows["mae"] == pytest.approx(metrics.mean_absolute_error(*pair))
    assert over_rows["bias"] == pytest.approx(np.subtract(pair[1], pair[0]).mean())
    assert measures["mae"].aggregate({"1": 2}, {"1": None}).value == 2
    assert measures["mae"].aggregate({"1": 2}, {"1": 9}).value == 2
    assert np.isnan(measures["bias"].aggregate({"1": 2}, {"1": None}).value)
    with pytest.raises(UsageError, match="does not divide the scale"):
        grade_measures((0, 1, 2, 3), 0)


def test_intervals_of_zero_and_one_are_exact():
    assert proportion(np.zeros(25), SIZES) == pytest.approx((0, *proportion_confint(0, 4000, method="beta")))
    assert proportion(np.array([50.0]), np.array([100.0])) == (0.5, 0, 1)  # one query says nothing of others
    assert proportion(SIZES, SIZES) == pytest.approx((1, *proportion_confint(4000, 4000, method="beta")))


def test_clustered_failures_have_a_wider_interval():
    scattered, bunched = np.full(25, 2.0), np.zeros(25)
    bunched[:5] = 10
    share, low, high = proportion(scattered, SIZES)
    assert (share, low, high) == pytest.approx((50 / 4000, *proportion_confint(50, 4000, method="beta")))
    wide = proportion(bunched, SIZES)
    assert wide[0] == share and wide[1] < low and wide[2] > high


@pytest.mark.slow
@pytest.mark.parametrize("bunched", [0.0001, 0.01])
def test_a_share_of_2_percent_is_covered(bunched):
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        of_query = rng.beta(0.02 * (1 / bunched - 1), 0.98 * (1 / bunched - 1), 25)
        _, low, high = proportion(rng.binomial(160, of_query).astype(float), SIZES)
        hits += low <= 0.02 <= high
    assert hits / 400 >= 0.925
