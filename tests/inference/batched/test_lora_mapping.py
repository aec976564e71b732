"""LoRA mapping: segments contain every row once, and contiguous rows are not copied."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from searchlora.inference.batched.lora_mapping import BASE_SLOT, map_rows


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_segments_round_trip(slots):
    routing = map_rows(slots, "cpu")
    if set(slots) == {BASE_SLOT}:
        assert routing is None
        return
    table = torch.arange(5.0)[:, None, None]  # slot s multiplies by s
    x = torch.randn(len(slots), 3, 1)
    y = routing.add_product(torch.zeros(len(slots), 3, 1), routing.to_segments(x), routing.select(table))
    assert torch.equal(y, x * torch.tensor(slots)[:, None, None])


def test_rows_in_equal_segments_are_not_copied():
    assert map_rows([2, 2, 3, 3], "cpu").gather is None
    assert map_rows([2, 3, 2, 3], "cpu").gather is not None
    assert isinstance(map_rows([2, 2, 3, 3], "cpu").slots, slice)
    assert not isinstance(map_rows([1, 1, 3, 3], "cpu").slots, slice)
