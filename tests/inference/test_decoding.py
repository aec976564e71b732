"""Greedy choice of the next token."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from searchlora.inference.decoding import argmax


@given(st.integers(1, 4), st.sampled_from([1, 7, 256, 259, 300, 768]), st.integers(1, 6), st.integers(0, 99))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_argmax_returns_the_first_maximum(dtype, rows, vocabulary, values, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-values, values, (rows, vocabulary), generator=generator).to(dtype)
    logits[0, : vocabulary // 2] = -torch.inf
    wanted = [row.index(max(row)) for row in logits.tolist()]
    assert argmax(logits).tolist() == wanted
