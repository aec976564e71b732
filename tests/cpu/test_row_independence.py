"""Compiled kernels: a row's result is the same to the last bit, whatever rows are computed with it.

Each function is called with a row alone, with a few rows and with many, in both precisions, compiled for each
instruction set that this processor has. PyTorch's part in it, matrix products in blocks, is tested in
`tests/inference/batched/test_batch_invariance.py`.
"""

from __future__ import annotations

import shutil

import pytest
import torch

from searchlora.cpu import kernels as native
from searchlora.cpu.packed import CompiledLinear, PackedSlots, PrepackedLinear
from searchlora.inference.batched.lora_layers import LoraWeights, map_rows
from searchlora.models.processor import INSTRUCTION_SETS, SWITCH, cpu_flags, multiplies_bf16

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on the path"),
]

#: Rows of a batch of 37 that are computed again together: alone, at its ends, in another order, in a larger group.
GROUPS = ([0], [36], [5, 4, 3], [*range(1, 18)], [*range(36, -1, -1)])
ROWS = 37
AVAILABLE = [name for name, (_, flags) in INSTRUCTION_SETS.items() if flags <= cpu_flags()]


@pytest.fixture(params=AVAILABLE, autouse=True)
def instruction_set(request, monkeypatch):
    monkeypatch.setenv(SWITCH, request.param)
    return request.param


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def compiled(request):
    kernels = native.kernels(torch.empty(0, dtype=request.param))
    assert kernels is not None
    torch.manual_seed(0)
    return kernels


def random(compiled, *shape):
    return torch.randn(shape).to(compiled.dtype)


def assert_independent(compute, *inputs):
    """`compute` of some rows of the inputs equals these rows of its result for all rows."""
    whole = compute(*(each.clone() for each in inputs))
    assert bool(whole.isfinite().all())
    for rows in GROUPS:
        assert torch.equal(compute(*(each[rows].contiguous() for each in inputs)), whole[rows]), rows


@pytest.mark.parametrize("rank", [3, 8, 16, 33, 64])
@pytest.mark.parametrize("size_in", [24, 61, 576])
def test_lora(compiled, size_in, rank):
    spans = [slice(0, 48), slice(48, 67), slice(67, 160)]
    slots = PackedSlots(size_in, spans, torch.empty(0, dtype=compiled.dtype), compiled)
    for slot in (1, 2):
        outs = (span.stop - span.start for span in spans)
        slots.put(
            slot, slots.pack([LoraWeights(torch.randn(rank, size_in) / 8, torch.randn(out, rank)) for out in outs])
        )
    assert_independent(
        lambda x, y, slot: slots.add(x, y, map_rows(slot.tolist())),
        random(compiled, ROWS, 1, size_in),
        random(compiled, ROWS, 1, 160),
        torch.tensor([1, 2] * (ROWS // 2) + [1]),
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["bf16 weights", "fp32 weights"])
@pytest.mark.parametrize("shape", [(192, 576), (576, 193), (49, 61), (15, 1)])
def test_frozen_fp32(shape, kind, bias):
    torch.manual_seed(0)
    weight = torch.randn(shape) if kind == "fp32 weights" else torch.randn(shape).bfloat16().float()
    kernels = native.kernels(weight)
    added = torch.randn(shape[0]) if bias else None
    linear = CompiledLinear(weight, added, kernels)
    assert torch.equal(linear.dense(), weight)
    assert linear.tensors()[0].dtype == (torch.float32 if kind == "fp32 weights" else torch.bfloat16)
    x = torch.randn(ROWS, shape[1])
    wanted = x.double() @ weight.double().T + (0 if added is None else added)
    torch.testing.assert_close(linear(x).double(), wanted, rtol=1e-5, atol=1e-4)
    assert_independent(linear, x)
    many = x.repeat(40, 1)  # more rows than are read from the cache together
    assert torch.equal(linear(many), linear(x).repeat(40, 1))


def test_frozen_bf16():
    if not multiplies_bf16():
        pytest.skip("these instructions do not multiply bf16")
    torch.manual_seed(0)
    linear = PrepackedLinear(torch.randn(192, 576).bfloat16(), None, batch_invariant=True)
    if not linear.treats_rows_alike:
        pytest.skip("oneDNN packs weights for other instructions; see ONEDNN_MAX_CPU_ISA")
    assert_independent(linear, torch.randn(ROWS, 576).bfloat16())


@pytest.mark.parametrize("size", [8, 24, 61, 64, 100])
def test_attention_of_queries(compiled, size):
    tokens, key_heads, group = 150, 2, 3
    key, value = random(compiled, 2, 1, key_heads, tokens, size)
    mask = torch.zeros(ROWS, tokens).to(compiled.dtype)
    for row in range(ROWS):
        mask[row, row * 3 + 2 :] = torch.finfo(compiled.dtype).min

    def attend(query, mask):
        return compiled.attention(query.transpose(0, 1)[None], key, value, mask[None, None], size**-0.5)[0]

    assert_independent(attend, random(compiled, ROWS, key_heads * group, size), mask)


@pytest.mark.parametrize("seen", [1, 63, 64, 65, 149])
def test_attention_with_more_columns(compiled, seen):
    """Columns that a token does not see change nothing: other rows of the cache may be longer."""
    key, value = random(compiled, 2, 1, 2, 150, 24)
    query = random(compiled, 1, 6, 1, 24)
    mask = torch.zeros(1, 1, 1, 150).to(compiled.dtype)
    mask[..., seen:] = torch.finfo(compiled.dtype).min
    whole = compiled.attention(query, key, value, mask, 0.2)
    cut = (each[:, :, :seen].contiguous() for each in (key, value))
    assert torch.equal(compiled.attention(query, *cut, mask[..., :seen].contiguous(), 0.2), whole)


@pytest.mark.parametrize("size", [7, 64, 100, 576])
def test_norm(compiled, size):
    weight = random(compiled, size)
    assert_independent(lambda x: compiled.rms_norm(x, weight, 1e-5), random(compiled, ROWS, size))
    assert_independent(
        lambda x, residual: compiled.rms_norm(x, weight, 1e-5, residual=residual),
        *random(compiled, 2, ROWS, size),
    )


@pytest.mark.parametrize("size", [8, 22, 64])
def test_rotary_embedding(compiled, size):
    def rotate(x, cos, sin):
        cache = torch.zeros(2, len(x), 1, 4, size, dtype=compiled.dtype)
        query = compiled.rope(x, (cos, sin), *cache, torch.zeros(len(x), dtype=torch.int64))
        return torch.cat([query.flatten(1), cache[0].flatten(1)], 1)

    angles = torch.randn(ROWS, 1, size)
    turns = (angles.cos().to(compiled.dtype), angles.sin().to(compiled.dtype))
    assert_independent(rotate, random(compiled, ROWS, 1, 4 * size), *turns)


@pytest.mark.parametrize("size", [7, 100, 1536])
def test_gated_activation(compiled, size):
    assert_independent(compiled.swiglu, 4 * random(compiled, ROWS, 2 * size))


@pytest.mark.parametrize("vocabulary", [50, 1000, 49_152])
def test_sampling_and_log_probabilities(compiled, vocabulary):
    settings = [1.5, 40, 0.9, 0.01]

    def draw(logits, numbers):
        rows = [[*settings, number] for number in numbers.tolist()]
        return torch.tensor(compiled.sample(logits, range(len(rows)), rows))

    def normalised(logits, numbers):
        chosen, _, values = compiled.log_probabilities(logits, [3] * len(numbers), 5)
        return torch.cat([torch.tensor(chosen)[:, None], torch.tensor(values)], 1)

    inputs = (3 * random(compiled, ROWS, vocabulary), torch.rand(ROWS))
    assert_independent(draw, *inputs)
    assert_independent(normalised, *inputs)
