"""Interactions of two parts of a system."""

from __future__ import annotations

import random

import pytest

from searchlora.errors import UsageError
from searchlora.eval.interaction import Factorial, interactions
from tests.eval.test_significance import paired_difference


def drawn(count, joint, seed=3):
    """Values in which the first part brings 0.2, the second 0.1, both together `joint` more."""
    rng = random.Random(seed)
    base = {f"q{n}": rng.uniform(0.1, 0.4) for n in range(count)}
    return Factorial(
        both={topic: value + 0.3 + joint + rng.gauss(0, 0.02) for topic, value in base.items()},
        without_a={topic: value + 0.1 + rng.gauss(0, 0.02) for topic, value in base.items()},
        without_b={topic: value + 0.2 + rng.gauss(0, 0.02) for topic, value in base.items()},
        neither={topic: value + rng.gauss(0, 0.02) for topic, value in base.items()},
    )


def test_the_interaction_is_the_difference_of_the_differences():
    (found,) = interactions({("a", "b"): drawn(40, 0.15)}, "nDCG@10", resamples=2000)
    assert found.without_a == pytest.approx(0.35, abs=0.02)
    assert found.without_b == pytest.approx(0.25, abs=0.02)
    assert found.without_both == pytest.approx(0.45, abs=0.02)
    assert found.interaction == pytest.approx(found.without_a - (found.without_both - found.without_b))
    assert found.low < 0.15 < found.high and found.low > 0
    assert (found.n, found.reading) == (40, "help each other")


def test_parts_that_do_the_same_overlap_and_independent_ones_do_not_interact():
    same, apart = interactions({("a", "b"): drawn(40, -0.1), ("c", "d"): drawn(40, 0.0)}, "nDCG@10", resamples=2000)
    assert (same.reading, apart.reading) == ("overlap", "not shown to interact")
    assert apart.low < 0 < apart.high


def test_interval_and_p_are_those_of_the_paired_difference_of_contrasts_by_cluster():
    design = drawn(30, 0.02)
    topics = list(design.both)
    clusters = {topic: f"c{number // 3}" for number, topic in enumerate(topics)}
    contrast = [design.both[t] - design.without_a[t] - design.without_b[t] + design.neither[t] for t in topics]
    expected = paired_difference(contrast, [0.0] * 30, [clusters[t] for t in topics], resamples=800, seed=1)
    (found,) = interactions({("a", "b"): design}, "nDCG@10", clusters, resamples=800, seed=1)
    assert (found.low, found.high, found.p) == pytest.approx((expected.low, expected.high, expected.p))
    (alone,) = interactions({("a", "b"): design}, "nDCG@10", resamples=800, seed=1)
    assert (alone.low, alone.high) != pytest.approx((found.low, found.high))


def test_p_is_corrected_over_all_interactions():
    designs = {(f"a{n}", "b"): drawn(20, 0.012, seed=n) for n in range(4)}
    found = interactions(designs, "nDCG@10", resamples=1000)
    (least,) = sorted(found, key=lambda each: each.p)[:1]
    assert least.p_corrected == pytest.approx(min(1.0, 4 * least.p))
    by_bh = interactions(designs, "nDCG@10", correction="bh", resamples=1000)
    assert sum(each.p_corrected for each in by_bh) < sum(each.p_corrected for each in found)


def test_less_is_better_turns_the_signs():
    design = drawn(20, 0.1)
    (more,) = interactions({("a", "b"): design}, "error", resamples=300)
    (less,) = interactions({("a", "b"): design}, "error", less_is_better=True, resamples=300)
    assert less.interaction == pytest.approx(-more.interaction)
    assert less.without_both == pytest.approx(-more.without_both)


def test_only_topics_that_all_four_have_count():
    design = drawn(12, 0.1)
    fewer = Factorial(design.both, design.without_a, dict(list(design.without_b.items())[:9]), design.neither)
    assert interactions({("a", "b"): fewer}, "MRR", resamples=200)[0].n == 9
    with pytest.raises(UsageError, match="a and b share no topic"):
        interactions({("a", "b"): Factorial(design.both, design.without_a, {}, design.neither)}, "MRR")
    assert interactions({}, "MRR") == ()
