"""Kendall's tau equals scipy, tau-ap its definition averaged over ties, with both sides resampled together."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.statistics.system_order.correlation import kendall_tau, order_agreement, tau_ap
from searchlora.errors import UsageError

SCORES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=6)


def named(scores) -> dict[str, float]:
    return {f"s{index}": float(score) for index, score in enumerate(scores)}


def orders(scores: dict[str, float]) -> list[tuple[str, ...]]:
    """All rankings, best first, that the scores allow."""
    groups = [[name for name in scores if scores[name] == value] for value in sorted({*scores.values()}, reverse=True)]
    return [sum(parts, ()) for parts in itertools.product(*(itertools.permutations(group) for group in groups))]


def plain_tau_ap(truth: tuple[str, ...], other: tuple[str, ...]) -> float:
    """Equation 3 of Yilmaz, Aslam and Robertson, for rankings without ties."""
    total = 0.0
    for i in range(1, len(other)):
        total += sum(truth.index(above) < truth.index(other[i]) for above in other[:i]) / i
    return 2 / (len(other) - 1) * total - 1


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(pairs=SCORES)
def test_tau_equals_scipy(pairs):
    a, b = zip(*pairs, strict=True)
    expected = stats.kendalltau(a, b).statistic
    assert kendall_tau(named(a), named(b)) == pytest.approx(expected, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=5))
def test_tau_ap_averages_its_definition_over_orders_of_ties(pairs):
    a, b = (named(side) for side in zip(*pairs, strict=True))
    expected = np.mean([plain_tau_ap(x, y) for x in orders(a) for y in orders(b)])
    assert tau_ap(a, b) == pytest.approx(expected)


def test_tau_ap_weights_errors_among_the_top_systems_more():
    truth = named([5, 4, 3, 2, 1])
    at_the_top, at_the_end = named([4, 5, 3, 2, 1]), named([5, 4, 3, 1, 2])
    assert kendall_tau(truth, at_the_top) == kendall_tau(truth, at_the_end) == pytest.approx(0.8)
    assert tau_ap(truth, at_the_top) < tau_ap(truth, at_the_end)
    assert tau_ap(truth, truth) == 1
    assert tau_ap(truth, named([1, 2, 3, 4, 5])) == -1


def values(means, noise, topics, seed):
    rng = np.random.default_rng(seed)
    return {f"s{i}": {str(t): m + noise * rng.normal() for t in range(topics)} for i, m in enumerate(means)}


def test_order_of_clearly_different_systems_is_certain():
    human = values([0.9, 0.7, 0.5, 0.3], 0.02, 30, 1)
    found = order_agreement(human, values([0.8, 0.6, 0.55, 0.2], 0.02, 30, 2), measure="nDCG@10", top=2, resamples=500)
    assert found.systems == ("s0", "s1", "s2", "s3")
    assert found.human == tuple(sorted(found.human, reverse=True))
    assert (found.tau.value, found.tau.low, found.tau.high) == (1, 1, 1)
    assert (found.tau.n, found.tau.queries, found.tau_top.n, found.top) == (4, 30, 2, 2)


def test_top_figures_use_the_best_systems_of_the_human_order():
    human = values([0.9, 0.7, 0.5, 0.3, 0.1], 0.01, 20, 1)
    judge = values([0.9, 0.7, 0.1, 0.3, 0.5], 0.01, 20, 2)
    found = order_agreement(human, judge, measure="P@5", top=2, resamples=300)
    assert found.tau.value == pytest.approx(kendall_tau(named([5, 4, 3, 2, 1]), named([5, 4, 1, 2, 3])))
    assert found.tau_top.value == found.tau_ap_top.value == 1


def test_equal_systems_stay_tied_in_every_resample():
    """Both sides are drawn by the same topics: noise that they share moves neither away from the other."""
    human = values([0.5] * 6, 0.3, 25, 4)
    found = order_agreement(human, human, measure="AP", resamples=300)
    assert (found.tau.low, found.tau.value, found.tau.high) == (1, 1, 1)
    unsure = order_agreement(human, values([0.5] * 6, 0.3, 25, 5), measure="AP", resamples=300)
    assert unsure.tau.high - unsure.tau.low > 0.5


def test_topics_not_common_to_all_systems_are_left_out_and_reported():
    human, judge = values([0.9, 0.1], 0.1, 12, 1), values([0.9, 0.1], 0.1, 12, 2)
    del judge["s1"]["3"]
    found = order_agreement(human, judge, measure="AP", resamples=100)
    assert found.tau.queries == 11
    assert found.notes == ("1 topics without a value for every system on both sides are left out.",)


def test_inputs_without_an_order_are_errors():
    assert math.isnan(kendall_tau(named([1, 1]), named([1, 2])))
    tied = {"a": {"1": 0.5, "2": 0.1}, "b": {"1": 0.5, "2": 0.1}}
    assert math.isnan(order_agreement(tied, tied, measure="AP", resamples=50).tau.low)
    one = order_agreement({k: {"1": v["1"]} for k, v in tied.items()}, {"a": {"1": 1}, "b": {"1": 0}}, measure="AP")
    assert math.isnan(one.tau_ap.low)
    with pytest.raises(UsageError, match="only one side has: s2"):
        kendall_tau(named([1, 2, 3]), named([1, 2]))
    with pytest.raises(UsageError, match="two systems"):
        tau_ap(named([1]), named([1]))
    with pytest.raises(UsageError, match="only one side has"):
        order_agreement(values([1, 2], 0, 3, 0), values([1, 2, 3], 0, 3, 0), measure="AP")
    with pytest.raises(UsageError, match="no topic has a value"):
        order_agreement({"a": {"1": 1.0}, "b": {"1": 1.0}}, {"a": {"2": 1.0}, "b": {"2": 1.0}}, measure="AP")
