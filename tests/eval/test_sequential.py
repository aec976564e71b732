"""Confidence sequences cover at every look together, for values that are 0 or 1 and for others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchlora.errors import UsageError
from searchlora.eval.sequential import Sum, mean_bounds

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
