"""Paired tests, corrections and power agree with scipy and statsmodels, over clusters too."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from searchlora.errors import UsageError
from searchlora.eval.sequential import Sum, mean_bounds
from searchlora.eval.significance import correct, detectable_effect, disagreement_note, paired_differences


def paired_difference(a, b, clusters=None, **options):
    """The difference of two systems, given by their values."""
    return paired_differences(np.subtract(a, b)[:, None], clusters, **options)[0]


@pytest.mark.parametrize("clustered", [False, True])
def test_p_equals_enumeration_of_all_sign_flips(clustered):
    differences = np.array([0.3, -0.1, 0.2, 0.0, 0.4, 0.25, -0.05, 0.1])
    clusters = list("aabbccdd") if clustered else list("abcdefgh")
    sums = np.array([differences[[c == name for c in clusters]].sum() for name in sorted(set(clusters))])
    flips = np.array(np.meshgrid(*[[1, -1]] * len(sums))).reshape(len(sums), -1)
    exact = (np.abs(sums @ flips) >= abs(sums.sum()) - 1e-12).mean()
    found = paired_difference(differences, np.zeros(8), clusters, resamples=20_000)
    assert found.p == pytest.approx(exact, abs=0.01)
    assert (found.wins, found.losses, found.ties) == (5, 2, 1)
    assert found.difference == pytest.approx(differences.mean())
    assert found.low < found.difference < found.high


def test_no_difference_has_p_1_and_p_is_never_0():
    same = paired_difference([0.5, 0.2], [0.5, 0.2])
    assert (same.p, same.difference, same.ties) == (1.0, 0.0, 2)
    assert paired_difference([1.0] * 60, [0.0] * 60, resamples=999).p == pytest.approx(1 / 1000)


def test_flipping_whole_clusters_keeps_the_level_for_dependent_rows():
    rng = np.random.default_rng(12)
    clusters = [str(index // 8) for index in range(240)]
    values = np.repeat(rng.normal(0, 1, (30, 400)), 8, axis=0) + rng.normal(0, 0.5, (240, 400))
    low, high = stats.binom.interval(0.999, 400, 0.05)
    assert low <= sum(f.p <= 0.05 for f in paired_differences(values, clusters, resamples=1_000)) <= high
    assert sum(f.p <= 0.05 for f in paired_differences(values, resamples=1_000)) > 2 * high


@pytest.mark.slow
def test_corrections_equal_statsmodels():
    from statsmodels.stats.multitest import multipletests

    pvalues = [0.01, 0.04, 0.03, 0.5]
    assert correct(pvalues) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert correct(pvalues, "bh") == pytest.approx(list(multipletests(pvalues, method="fdr_bh")[1]))
    rng = np.random.default_rng(4)
    for size in (1, 2, 50):
        tied = np.round(rng.uniform(0, 1, size) ** 2, 1 if size == 50 else 6).tolist()
        assert correct(tied) == pytest.approx(list(multipletests(tied, method="holm")[1]))
        assert correct(tied, "bh") == pytest.approx(list(multipletests(tied, method="fdr_bh")[1]))
    assert correct([]) == correct([], "bh") == []
    with pytest.raises(UsageError, match="bonferroni"):
        correct(pvalues, "bonferroni")


VALUES = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]), min_size=12, max_size=12)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(a=VALUES, b=VALUES)
def test_t_equals_scipy_and_effect_equals_its_formula(a, b):
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


@pytest.mark.slow
def test_t_over_clusters_equals_statsmodels():
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


def test_one_cluster_gives_no_p_value():
    found = paired_difference([0.2, 0.4, 0.9], [0.1, 0.1, 0.1], ["one"] * 3)
    assert all(math.isnan(value) for value in (found.p_t, found.effect, found.mde))
    assert math.isnan(detectable_effect(1))


@pytest.mark.parametrize("count", [3, 10, 43, 200, 100_000])
def test_detectable_effect_has_the_stated_power(count):
    """By the non-central t distribution written out, and as statsmodels solves it."""
    from statsmodels.stats.power import TTestPower

    effect = detectable_effect(count)
    limit = stats.t.isf(0.025, count - 1)
    shift = effect * math.sqrt(count)
    found = stats.nct.sf(limit, count - 1, shift) + stats.nct.cdf(-limit, count - 1, shift)
    assert found == pytest.approx(0.8, abs=1e-4)
    assert TTestPower().power(effect, count, 0.05, alternative="two-sided") == pytest.approx(0.8, abs=1e-4)


@pytest.mark.slow
def test_detectable_effect_decreases_with_n_and_clusters():
    """Whichever of statsmodels' solvers finds it."""
    found = [detectable_effect(count) for count in range(2, 240)]
    assert all(before > after > 0 for before, after in pairwise(found))


def test_a_note_says_that_p_decides_where_interval_and_p_disagree():
    agreeing = [("A − B", 0.1, 0.2, 0.01), ("A − C", -0.1, 0.2, 0.5), ("A − D", float("nan"), float("nan"), 0.01)]
    assert disagreement_note(agreeing) == ""
    assert disagreement_note([*agreeing, ("A − E", -0.2, -0.1, 0.08), ("A − F", -0.1, 0.2, 0.03)]) == (
        "The interval excludes 0, but p is above 0.05, for 'A − E'; the interval includes 0, but p is at most 0.05, "
        "for 'A − F': the corrected p decides, since an interval holds for one comparison alone."
    )


# Confidence sequences cover at every look together, for values that are 0 or 1 and for others

#: Looks at a sequence of a thousand values.
LOOKS = [*range(1, 50), *range(50, 1001, 25)]


def missed(values, mean, alpha):
    """Whether the interval misses the mean at any look."""
    totals = np.cumsum(values)
    for n in LOOKS:
        low, high = mean_bounds(Sum(float(totals[n - 1]), n), alpha)
        if not low <= mean <= high:
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("mean", [0.02, 0.3, 0.5])
def test_values_of_0_or_1_are_covered_at_every_look_together(mean):
    rng = np.random.default_rng(1)
    runs = 400
    misses = sum(missed(rng.random(1000) < mean, mean, 0.1) for _ in range(runs))
    assert misses / runs <= 0.1


@pytest.mark.slow
def test_values_between_0_and_1_are_covered_at_every_look_together():
    rng = np.random.default_rng(2)
    misses = sum(missed(rng.beta(0.3, 0.9, 1000), 0.25, 0.1) for _ in range(300))
    assert misses / 300 <= 0.1


@pytest.mark.slow
def test_a_naive_interval_would_miss_far_more_often():
    """The test above can fail: a normal interval, watched, misses many times as often as it says."""
    rng = np.random.default_rng(3)
    misses = 0
    for _ in range(200):
        totals = np.cumsum(rng.random(1000) < 0.5)
        misses += any(abs(totals[n - 1] / n - 0.5) > 1.645 * 0.5 / n**0.5 for n in LOOKS if n >= 10)
    assert misses / 200 > 0.3


@given(st.integers(1, 500), st.data())
def test_an_interval_holds_its_mean_and_shrinks_with_more_values(n, data):
    total = data.draw(st.integers(0, n))
    low, high = mean_bounds(Sum(total, n))
    assert 0 <= low <= total / n <= high <= 1
    wider = mean_bounds(Sum(total, n), 0.01)
    assert wider[0] <= low and high <= wider[1]
    mirrored = mean_bounds(Sum(n - total, n))
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-6)


def test_more_values_narrow_the_interval():
    widths = [high - low for low, high in (mean_bounds(Sum(n / 4, n)) for n in (20, 200, 2000, 20_000))]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.03


def test_what_cannot_be_is_refused():
    for values, alpha in ((Sum(2, 1), 0.05), (Sum(-1, 3), 0.05), (Sum(1, 2), 0.0), (Sum(1, 2), 1.0)):
        with pytest.raises(UsageError):
            mean_bounds(values, alpha)
