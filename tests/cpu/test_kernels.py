"""The compiled kernels match PyTorch."""

from __future__ import annotations

import math
import shutil
from copy import copy
from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from searchlora.cpu import kernels as native
from searchlora.cpu.bindings import LoraItems
from searchlora.cpu.fused_layers import FusedRMSNorm, fuse_norms
from searchlora.cpu.packed import PackedSlots
from searchlora.inference.batched import attention
from searchlora.inference.batched.attention import attend
from searchlora.inference.batched.lora_layers import LoraWeights, TorchSlots, map_rows

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on the path")

#: Of a difference, relative to the largest number.
NEAR = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
KINDS = pytest.mark.parametrize("dtype", NEAR)


def near(found, wanted):
    assert found.shape == wanted.shape
    assert float((found.float() - wanted.float()).abs().max()) <= NEAR[found.dtype] * max(float(wanted.abs().max()), 1)


@pytest.mark.slow
@KINDS
@settings(max_examples=40, deadline=None)
@given(
    size_in=st.one_of(st.integers(1, 150), st.integers(1, 5).map(lambda many: 32 * many)),
    outs=st.lists(st.integers(1, 150), min_size=1, max_size=3),
    ranks=st.lists(st.one_of(st.integers(1, 9), st.sampled_from([16, 32, 40])), min_size=1, max_size=4),
    rows=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    tokens=st.integers(1, 2),
    tiles=st.booleans(),
)
def test_batched_lora_matches_pytorch(dtype, size_in, outs, ranks, rows, tokens, tiles):
    torch.manual_seed(0)
    slots = [min(row, len(ranks)) for row in rows]
    ends = [0, *accumulate(outs)]
    spans = [slice(start, end) for start, end in pairwise(ends)]
    like = torch.empty(0, dtype=dtype)
    compiled = copy(native.kernels(like))
    assert compiled is not None
    compiled.uses_amx = compiled.uses_amx and tiles
    tables = [TorchSlots(size_in, spans, like), PackedSlots(size_in, spans, like, compiled)]
    for slot, rank in enumerate(ranks, start=1):
        changes = [LoraWeights(torch.randn(rank, size_in) / size_in**0.5, torch.randn(out, rank)) for out in outs]
        changes[-1] = changes[-1] if slot % 2 else None
        for each in tables:
            each.put(slot, each.pack(changes))
    routing = map_rows(slots)
    if routing is not None:
        x, y = torch.randn(len(slots), tokens, size_in).to(dtype), torch.randn(len(slots), tokens, ends[-1]).to(dtype)
        wanted, found = (each.add(x, y.clone(), routing) for each in tables)
        near(found, wanted)
        bare = [row for row, slot in enumerate(slots) if slot == 0]
        assert torch.equal(found[bare], y[bare])


@KINDS
def test_an_adapter_that_does_not_change_these_layers_shares_their_batch(dtype):
    """The kernels read the rank of every slot in the batch: none may lie behind the end of the table."""
    like, spans = torch.empty(0, dtype=dtype), [slice(0, 12)]
    tables = [TorchSlots(8, spans, like), PackedSlots(8, spans, like, native.kernels(like))]
    for each in tables:
        torch.manual_seed(0)
        each.put(1, each.pack([LoraWeights(torch.randn(4, 8), torch.randn(12, 4))]))
        each.put(9, each.pack([None]))
    assert tables[1]._tables.addresses.shape[1] > 9
    x, y = torch.randn(2, 1, 8).to(dtype), torch.randn(2, 1, 12).to(dtype)
    wanted, found = (each.add(x, y.clone(), map_rows([1, 9])) for each in tables)
    near(found, wanted)
    assert torch.equal(found[1], y[1])


@pytest.mark.slow
@KINDS
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 5),
    key_heads=st.integers(1, 3),
    group=st.integers(1, 6),
    size=st.integers(1, 140),
    seen=st.integers(1, 200),
    spread=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_decode_attention_matches_the_reference(dtype, rows, key_heads, group, size, seen, spread):
    torch.manual_seed(0)
    compiled = native.kernels(torch.empty(0, dtype=dtype))
    room = torch.randn(2, rows, key_heads, seen + 7, size).to(dtype)  # columns beyond must not be read
    key, value = (room[place, :, :, :seen] for place in (0, 1))
    query = (spread * torch.randn(rows, 1, key_heads * group, size)).to(dtype).transpose(1, 2)
    hidden = torch.rand(rows, 1, 1, seen) < 0.4
    hidden[..., 0] = False
    mask = torch.zeros(rows, 1, 1, seen, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)
    assert compiled.supports_attention(query, key, value, mask)
    found = compiled.attention(query, key, value, mask, 1 / math.sqrt(size))
    keys, values = (each.float().repeat_interleave(group, 1) for each in (key, value))
    scores = query.float() @ keys.transpose(2, 3) / math.sqrt(size) + mask.float()
    near(found, (scores.softmax(-1) @ values).transpose(1, 2).to(dtype))


def test_unsupported_attention_falls_back_to_pytorch():
    key, value = torch.randn(2, 1, 2, 5, 8).transpose(3, 4).contiguous().transpose(3, 4).unbind()
    query, mask = torch.randn(1, 2, 1, 8), torch.zeros(1, 1, 1, 5)
    assert not native.kernels(query).supports_attention(query, key, value, mask)
    found, _ = attend(torch.nn.Module(), query, key, value, mask)
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    near(found, wanted.transpose(1, 2))


def test_rows_of_an_adapter_are_grouped_in_items_of_sixteen():
    items = LoraItems([(3, [*range(0, 34, 2)]), (1, [1])])
    assert items.slots.tolist() == [3, 3, 1]
    assert items.firsts.tolist() == [0, 16, 17]
    assert items.counts.tolist() == [16, 1, 1]
    assert items.rows.tolist() == [*range(0, 34, 2), 1]
    assert items.first is None


def test_tokens_of_consecutive_rows_are_not_copied():
    items = LoraItems([(3, [2]), (1, [3])], tokens=20)
    assert items.counts.tolist() == [16, 4, 16, 4]
    assert items.first == 40


@pytest.mark.slow
@KINDS
@settings(max_examples=40, deadline=None)
@given(shape=st.lists(st.integers(1, 9), min_size=1, max_size=3), size=st.integers(1, 300), spread=st.floats(1e-3, 1e3))
def test_rms_norm_matches_llama(dtype, shape, size, spread):
    torch.manual_seed(0)
    norm = LlamaRMSNorm(size).to(dtype)
    norm.weight.data.normal_()
    x = (spread * torch.randn(size, *shape)).to(dtype).movedim(0, -1)
    found = native.kernels(x).rms_norm(x, norm.weight.detach(), norm.variance_epsilon)
    near(found, norm(x).detach())


@KINDS
def test_residuals_are_added_in_place(dtype):
    torch.manual_seed(0)
    norm = LlamaRMSNorm(70).to(dtype)
    x, residual = torch.randn(2, 3, 5, 70).to(dtype).unbind()
    total = x + residual
    found = native.kernels(x).rms_norm(x, norm.weight.detach(), norm.variance_epsilon, residual)
    assert torch.equal(x, total)
    near(found, norm(total).detach())


@KINDS
@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 40),
    new=st.integers(1, 9),
    key_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    size=st.integers(1, 40).map(lambda half: 2 * half),
    uneven=st.booleans(),
)
def test_rope_matches_llama_and_writes_keys_and_values_to_the_cache(dtype, rows, new, key_heads, group, size, uneven):
    torch.manual_seed(0)
    heads = key_heads * group
    x = torch.randn(rows, new, (heads + 2 * key_heads) * size).to(dtype)
    angles = torch.randn(rows, new, size)
    turn = (angles.cos().to(dtype), angles.sin().to(dtype))
    starts = torch.arange(rows) % 4 if uneven else torch.full((rows,), 3)
    room = torch.randn(2, rows, key_heads, new + 9, size).to(dtype)
    keys, values = room[..., 2 : new + 7, :].unbind()
    given_x, before = x.clone().view(rows, new, -1, size).transpose(1, 2), room.clone()
    query = native.kernels(x).rope(x, turn, keys, values, starts)
    wanted = apply_rotary_pos_emb(given_x[:, :heads], given_x[:, heads : heads + key_heads], *turn)
    near(query, wanted[0])
    for row, start in enumerate(starts.tolist()):
        columns = slice(start + 2, start + 2 + new)
        near(room[0, row, :, columns], wanted[1][row])
        assert torch.equal(room[1, row, :, columns], given_x[row, heads + key_heads :])
        before[:, row, :, columns] = room[:, row, :, columns]
    assert torch.equal(room, before)  # nothing else was written


@pytest.mark.slow
@KINDS
@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 40),
    size=st.integers(1, 2000),
    spread=st.sampled_from([0.1, 1.0, 30.0, 1e4]),
)
def test_gated_activation_matches_silu(dtype, rows, size, spread):
    torch.manual_seed(0)
    x = (spread * torch.randn(rows, 2, 2 * size)).to(dtype)
    near(native.kernels(x).swiglu(x), torch.nn.functional.silu(x[..., :size]) * x[..., size:])


class AddsOne(LlamaRMSNorm):  # as Gemma's does
    def forward(self, x):
        return super().forward(x) + x / x.pow(2).mean(-1, keepdim=True).sqrt()


AddsOne.__name__ = "AddsOneRMSNorm"


def test_only_equivalent_norms_are_replaced():
    model = torch.nn.ModuleDict({"plain": LlamaRMSNorm(32), "other": AddsOne(32), "linear": torch.nn.Linear(2, 2)})
    kept = dict(model)
    x = torch.randn(3, 32)
    wanted = {name: model[name](x).detach() for name in ("plain", "other")}
    fuse_norms(model)
    assert isinstance(model["plain"], FusedRMSNorm)
    assert model["other"] is kept["other"]
    for name, each in wanted.items():
        near(model[name](x).detach(), each)
    assert model["plain"](x.bfloat16()).dtype == kept["plain"](x.bfloat16()).dtype  # of another kind: as it was


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_attention_does_not_depend_on_splitting_the_rows(monkeypatch, rows):
    query, (key, value) = torch.randn(rows, 6, 9, 8), torch.randn(2, rows, 2, 9, 8)
    mask = torch.zeros(rows, 1, 9, 9).masked_fill(~torch.ones(9, 9).tril().bool(), torch.finfo(torch.float32).min)
    together, _ = attend(torch.nn.Module(), query, key, value, mask)
    monkeypatch.setattr(attention, "_SCORES_PER_BLOCK", 3 * 6 * 9 * 9)
    in_parts, _ = attend(torch.nn.Module(), query, key, value, mask)
    monkeypatch.setattr(attention, "_MAX_SCORES_PER_ROW", 0)
    blockwise, _ = attend(torch.nn.Module(), query, key, value, mask)
    near(in_parts, together)
    near(blockwise, together)
