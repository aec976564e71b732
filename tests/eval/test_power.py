"""The t test is scipy's, over clusters statsmodels'; detectable effects are found as often as they say."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from searchlora.eval.power import detectable_effect
from searchlora.eval.significance import paired_difference, paired_differences

VALUES = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]), min_size=12, max_size=12)


@settings(max_examples=60, deadline=None)
@given(a=VALUES, b=VALUES)
def test_t_is_that_of_scipy_and_effect_that_of_the_formula(a, b):
    found = paired_difference(a, b, resamples=10)
    differences = np.subtract(a, b)
    spread = differences.std(ddof=1)
    if spread < 1e-12:
        assert found.p_t == (0 if differences[0] else 1)
        assert found.effect == (math.copysign(math.inf, differences[0]) if differences[0] else 0)
        assert found.mde == 0
        return
    assert found.p_t == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)
    assert found.effect == pytest.approx(differences.mean() / spread)
    assert found.mde == pytest.approx(detectable_effect(12) * spread)


def test_t_over_clusters_is_that_of_statsmodels():
    """A regression on the constant alone with errors robust to clusters; sizes differ, rows within depend."""
    import statsmodels.api as sm

    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 9, 30)
    groups = np.repeat(np.arange(30), sizes)
    differences = np.repeat(rng.normal(0.1, 0.3, 30), sizes) + rng.normal(0, 0.1, sizes.sum())
    differences[rng.random(len(differences)) < 0.2] = 0
    model = sm.OLS(differences, np.ones(len(differences)))
    theirs = model.fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    found = paired_difference(differences, np.zeros(len(differences)), [str(g) for g in groups], resamples=10)
    assert found.p_t == pytest.approx(theirs.pvalues[0], rel=1e-9)
    assert found.mde == pytest.approx(detectable_effect(30) * theirs.bse[0] * math.sqrt(30))
    assert found.effect == pytest.approx(differences.mean() / differences.std(ddof=1))


def test_one_cluster_tells_nothing():
    found = paired_difference([0.2, 0.4, 0.9], [0.1, 0.1, 0.1], ["one"] * 3)
    assert all(math.isnan(value) for value in (found.p_t, found.effect, found.mde))
    assert math.isnan(detectable_effect(1))


@pytest.mark.parametrize("count", [3, 10, 43, 200, 100_000])
def test_detectable_effect_has_the_power_that_it_says(count):
    """By the non-central t distribution written out, and as statsmodels solves it."""
    from statsmodels.stats.power import TTestPower

    effect = detectable_effect(count)
    limit = stats.t.isf(0.025, count - 1)
    shift = effect * math.sqrt(count)
    found = stats.nct.sf(limit, count - 1, shift) + stats.nct.cdf(-limit, count - 1, shift)
    assert found == pytest.approx(0.8, abs=1e-4)
    assert TTestPower().power(effect, count, 0.05, alternative="two-sided") == pytest.approx(0.8, abs=1e-4)


def test_a_true_difference_of_that_size_is_found_four_times_in_five():
    spread, count = 0.25, 43
    effect = detectable_effect(count) * spread
    differences = np.random.default_rng(9).normal(effect, spread, (count, 1_500))
    found = sum(each.p_t <= 0.05 for each in paired_differences(differences, resamples=2))
    low, high = stats.binom.interval(0.999, 1_500, 0.8)
    assert low <= found <= high


def test_t_rejects_under_the_null_as_often_as_it_says():
    differences = np.random.default_rng(10).normal(0, 1, (43, 2_000))
    low, high = stats.binom.interval(0.999, 2_000, 0.05)
    assert low <= sum(each.p_t <= 0.05 for each in paired_differences(differences, resamples=2)) <= high


def test_detectable_effect_falls_with_every_count():
    """Whichever of statsmodels' solvers finds it."""
    found = [detectable_effect(count) for count in range(2, 240)]
    assert all(before > after > 0 for before, after in pairwise(found))
