"""Thirds and traffic bands, ties together, and the order in which slices are shown."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from searchlora.eval.slicing import BANDS, by_thirds, by_traffic, shown_order


def test_head_torso_and_tail_by_hand():
    weights = {"a": 40, "b": 15, "c": 15, "d": 10, "e": 10, "f": 5, "g": 5}
    assert by_traffic(weights) == {
        "a": "head", "b": "torso", "c": "torso", "d": "tail", "e": "tail", "f": "tail", "g": "tail",
    }  # fmt: skip
    assert by_traffic({"a": 99, "b": 1}) == {"a": "head", "b": "tail"}
    assert set(by_traffic(dict.fromkeys("abcdef", 2.0)).values()) == {"head"}


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 50), min_size=1))
def test_bands_fall_with_traffic_and_keep_ties_together(weights):
    bands = by_traffic(weights)
    assert set(bands) == set(weights)
    for one in weights:
        for two in weights:
            if weights[one] >= weights[two]:
                assert BANDS.index(bands[one]) <= BANDS.index(bands[two])


@given(st.dictionaries(st.text(max_size=3), st.integers(-5, 20).map(float), min_size=3))
def test_thirds_are_ranges_that_do_not_overlap(numbers):
    thirds = by_thirds(numbers)
    ends = sorted({(min(m), max(m)) for label in set(thirds.values())
                   for m in [[numbers[row] for row in numbers if thirds[row] == label]]})  # fmt: skip
    assert 1 <= len(ends) <= 3
    assert all(one[1] < two[0] for one, two in pairwise(ends))
    if len(set(numbers.values())) == len(numbers):
        sizes = [list(thirds.values()).count(label) for label in set(thirds.values())]
        assert max(sizes) - min(sizes) <= 1


def test_values_of_slices_are_shown_in_their_order():
    shown = ["tail", "head", "10 to 12", "9", "-1 to 8", "yes", "torso", "6 and later", "later"]
    assert sorted(shown, key=shown_order) == [
        "head", "torso", "tail", "-1 to 8", "6 and later", "9", "10 to 12", "later", "yes",
    ]  # fmt: skip
