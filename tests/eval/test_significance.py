"""Tests reject as often as they say, clusters count, corrections are those of statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.intervals.shapes import draws
from searchlora.errors import UsageError
from searchlora.eval.significance import correct, paired_difference, paired_differences


@pytest.mark.parametrize("clustered", [False, True])
def test_p_is_that_of_all_sign_flips(clustered):
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
    with pytest.raises(UsageError, match="paired"):
        paired_difference([0.1], [0.1, 0.2])


def test_rejections_under_the_null_stay_in_their_band():
    """MRR@10 of two equal systems, ties and all: 5% of the tests reject, as far as 800 of them can tell."""
    rng = np.random.default_rng(11)
    a, b = (draws("good", (43, 800), rng)[0] for _ in range(2))
    rejected = sum(found.p <= 0.05 for found in paired_differences(a - b, resamples=2_000))
    low, high = stats.binom.interval(0.999, 800, 0.05)
    assert low <= rejected <= high


def test_flipping_whole_clusters_keeps_the_level_where_rows_depend():
    rng = np.random.default_rng(12)
    clusters = [str(index // 8) for index in range(240)]
    values = np.repeat(rng.normal(0, 1, (30, 400)), 8, axis=0) + rng.normal(0, 0.5, (240, 400))
    low, high = stats.binom.interval(0.999, 400, 0.05)
    assert low <= sum(f.p <= 0.05 for f in paired_differences(values, clusters, resamples=1_000)) <= high
    assert sum(f.p <= 0.05 for f in paired_differences(values, resamples=1_000)) > 2 * high


def test_corrections_are_those_of_statsmodels():
    from statsmodels.stats.multitest import multipletests

    pvalues = [0.01, 0.04, 0.03, 0.5]
    assert correct(pvalues) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert correct(pvalues, "bh") == pytest.approx(list(multipletests(pvalues, method="fdr_bh")[1]))
    assert correct([]) == []
    with pytest.raises(UsageError, match="bonferroni"):
        correct(pvalues, "bonferroni")
