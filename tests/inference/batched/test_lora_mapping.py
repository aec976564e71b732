"""Segments hold every row once, and none is moved that lies well."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from searchlora.inference.batched.lora_mapping import BARE, route


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_what_goes_into_segments_comes_back(slots):
    routing = route(slots, "cpu")
    if set(slots) == {BARE}:
        assert routing is None
        return
    table = torch.arange(5.0)[:, None, None]  # slot s multiplies by s
    x = torch.randn(len(slots), 3, 1)
    y = routing.added(torch.zeros(len(slots), 3, 1), routing.segmented(x), routing.of(table))
    assert torch.equal(y, x * torch.tensor(slots)[:, None, None])


def test_rows_that_lie_in_equal_segments_are_not_moved():
    assert route([2, 2, 3, 3], "cpu").gather is None
    assert route([2, 3, 2, 3], "cpu").gather is not None
    assert isinstance(route([2, 2, 3, 3], "cpu").slots, slice)
    assert not isinstance(route([1, 1, 3, 3], "cpu").slots, slice)
