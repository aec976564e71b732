"""Packed weights: products, LoRA deltas and fallbacks."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.cpu import packed as module
from searchlora.cpu.kernels import kernels
from searchlora.cpu.packed import PackedSlots, PrepackedLinear
from searchlora.inference.batched.lora_layers import LoraWeights, map_rows

#: What reads frozen weights, where the processor multiplies bfloat16.
compiled = kernels(torch.empty(0, dtype=torch.bfloat16))
multiplies = pytest.mark.skipif(
    not (compiled and compiled.max_rows), reason="this processor does not multiply bfloat16"
)


def packed(monkeypatch, weight, bias, lies):
    """With our own kernel, or with oneDNN's alone."""
    with monkeypatch.context() as patch:
        if not lies:
            patch.setattr(
                module, "pack_frozen", lambda *_: weight.view(6, 48, 32, 2)
            )  # of the right size, but not contiguous
        found = PrepackedLinear(weight, bias)
    assert (found._compiled is not None) == lies
    return found


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return torch.nn.Linear(96, 192, dtype=torch.bfloat16).requires_grad_(False)


@multiplies
@pytest.mark.parametrize("rows", [1, 2, 8, 16, 17, 32, 33, 100, 128, 129, 512, 513])
def test_products_of_few_rows_match_onednn(layer, monkeypatch, rows):
    x = torch.randn(rows, 1, 96).bfloat16()
    found, wanted = (packed(monkeypatch, layer.weight, layer.bias, lies)(x) for lies in (True, False))
    assert found.shape == wanted.shape == (rows, 1, 192)
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=1e-3)
    if rows > compiled.max_rows:
        assert torch.equal(found, wanted)


@pytest.mark.slow
@multiplies
@pytest.mark.parametrize("ends", [(192,), (64, 192), (32, 96, 192), (80, 192)])
@settings(max_examples=25, deadline=None)
@given(
    slots=st.one_of(
        st.lists(st.integers(0, 4), min_size=1, max_size=70),
        st.lists(st.integers(1, 4), min_size=1, max_size=70).map(sorted),
    ),
    ranks=st.lists(st.sampled_from([2, 8, 16, 40, 64]), min_size=4, max_size=4),
    tokens=st.integers(1, 7),
    biased=st.booleans(),
)
def test_lora_deltas_are_added(ends, slots, ranks, tokens, biased):
    torch.manual_seed(0)
    weight, bias = torch.randn(192, 96).bfloat16() / 10, torch.randn(192).bfloat16() if biased else None
    spans = [slice(start, end) for start, end in pairwise((0, *ends))]
    base, added = PrepackedLinear(weight, bias), PackedSlots(96, spans, weight, compiled)
    for slot, rank in enumerate(ranks, 1):
        changes = [LoraWeights(torch.randn(rank, 96) / 10, torch.randn(each.stop - each.start, rank)) for each in spans]
        added.put(slot, added.pack([*changes[:-1], None if slot == 2 else changes[-1]]))
    x, routing = torch.randn(len(slots), tokens, 96).bfloat16(), map_rows(slots)
    if routing is None:
        return
    found = added.apply(base, x, routing)
    torch.testing.assert_close(found, added.add(x, base(x), routing), rtol=2e-2, atol=0.1)
    bare = [row for row, slot in enumerate(slots) if slot == 0]
    assert torch.equal(found[bare], base(x)[bare])
    alone = added.apply(base, x[-1:], map_rows(slots[-1:])) if slots[-1] else base(x[-1:])
    assert torch.equal(alone[0], found[-1])


@multiplies
@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (7, 9)])
def test_unsupported_sizes_fall_back_to_onednn(shape):
    assert PrepackedLinear(torch.randn(shape).bfloat16(), None)._compiled is None
