"""Rank-biased overlap against its definition, and its properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchlora.eval.rank_overlap import rank_biased_overlap, replaced

RANKINGS = st.lists(st.integers(0, 12).map(str), unique=True, max_size=10)


def defined(one, other, p):
    """Equation 32 of Webber, Moffat and Zobel, term by term."""
    short, long = sorted((one, other), key=len)
    s, n = len(short), len(long)

    def agreed(depth):
        return len(set(short[:depth]) & set(long[:depth]))

    seen = sum(agreed(d) / d * p**d for d in range(1, n + 1))
    assumed = sum(agreed(s) * (d - s) / (s * d) * p**d for d in range(s + 1, n + 1))
    return (1 - p) / p * (seen + assumed) + ((agreed(n) - agreed(s)) / n + agreed(s) / s) * p**n


@given(RANKINGS, RANKINGS, st.floats(0.05, 0.98))
def test_it_is_the_definition_symmetric_and_between_0_and_1(one, other, p):
    value = rank_biased_overlap(one, other, p)
    assert 0 <= value <= 1
    assert value == rank_biased_overlap(other, one, p)
    if one and other:
        assert value == pytest.approx(defined(one, other, p), abs=1e-12)


@given(RANKINGS)
def test_a_ranking_agrees_with_itself_and_with_nothing_else_s_ids(ranking):
    assert rank_biased_overlap(ranking, ranking) == pytest.approx(1)
    if ranking:
        assert rank_biased_overlap(ranking, [f"x{each}" for each in ranking]) == 0


def test_a_change_at_the_top_weighs_more_than_one_at_the_end():
    ranking = list("abcdefghij")
    top, end = ["b", "a", *ranking[2:]], [*ranking[:8], "j", "i"]
    assert rank_biased_overlap(ranking, top) < rank_biased_overlap(ranking, end) < 1


def test_empty_rankings():
    assert (rank_biased_overlap([], []), rank_biased_overlap([], ["a"])) == (1, 0)
    with pytest.raises(ValueError, match="persistence"):
        rank_biased_overlap(["a"], ["a"], 1.0)


def test_replaced_counts_the_first_hits_that_left():
    assert (replaced("abc", "abc"), replaced("abc", "cba", 3), replaced("abc", "xab", 3), replaced("abc", "")) == (
        0,
        0,
        1,
        3,
    )
