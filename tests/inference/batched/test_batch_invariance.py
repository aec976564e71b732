"""Batch-invariant engines: in bf16, answers and scores are bit-identical in any batch."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from searchlora.adapters.store import Store
from searchlora.inference.batched.attention import attend_invariant
from searchlora.inference.batched.forward import BatchingCheck, check_batching
from searchlora.inference.batched.frozen_linear import blocked_linear
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.models.resolve import resolve
from tests.inference.small_models import random_store, small

WORDS = ("tent", "boot", "rain", "jacket", "lamp", "stove", "river", "hiking", "cotton", "wool", "sole", "grip")
CHOICES = ["0", "1", "2", "3", "not relevant", "quite relevant", *(f"label {n} of {n % 3}" for n in range(12))]


def requests_of(count: int, adapters: tuple[str | None, ...], lengths: tuple[int, ...]) -> list[Request]:
    """Prompts of different lengths with a common beginning."""
    rng = random.Random(0)
    system = {"role": "system", "content": "Grade the passage for the query, 0 to 3. " * 2}
    texts = [" ".join(rng.choices(WORDS, k=rng.choice(lengths))) for _ in range(count)]
    return [
        Request((system, {"role": "user", "content": text}), adapters[n % len(adapters)], 6)
        for n, text in enumerate(texts)
    ]


def answers(engine, requests, order, size, margin=None, choices=CHOICES):
    """Completions and scores in the order of `requests`, asked in another order in calls of `size` requests."""
    texts, scores = {}, {}
    for start in range(0, len(order), size):
        part = order[start : start + size]
        batch = [requests[place] for place in part]
        texts |= dict(zip(part, (each.text for each in engine.generate(batch)), strict=True))
        scored = engine.score(batch, [choices] * len(batch), prune_margin=margin)
        scores |= dict(zip(part, (each.log_probabilities for each in scored), strict=True))
    return [(texts[place], scores[place]) for place in range(len(requests))]


@pytest.fixture(scope="module")
def store(tiny_base, tmp_path_factory) -> Store:
    return random_store(tiny_base, tmp_path_factory.mktemp("invariance"), "one", "two")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["compiled kernels", "PyTorch", "one adapter at a time"])
@pytest.mark.parametrize("margin", [None, 3.0])
def test_answers_and_scores_do_not_depend_on_their_batch(tiny_base, store, monkeypatch, kind, margin):
    if kind == "PyTorch":
        monkeypatch.setenv("SEARCHLORA_NATIVE", "0")
    if kind == "one adapter at a time":
        monkeypatch.setattr("searchlora.inference.batched.forward.check_batching", lambda _: BatchingCheck("of a test"))
    count, choices = (6, CHOICES[:5]) if kind == "one adapter at a time" else (14, CHOICES)
    requests = requests_of(count, (None, "one", "two"), (1, 4, 40))
    places = list(range(len(requests)))
    wanted = answers(LocalEngine(tiny_base, store), requests, places, len(requests), margin, choices)
    for seed, (size, settings) in enumerate(
        [(1, {}), (14, {"max_num_seqs": 3}), (5, {"prefix_tokens": 0}), (14, {"batch_tokens": 300, "max_loras": 1})]
    ):
        order = random.Random(seed).sample(places, len(places))
        assert answers(LocalEngine(tiny_base, store, **settings), requests, order, size, margin, choices) == wanted


@pytest.mark.slow
def test_with_a_real_base_answers_and_scores_do_not_depend_on_their_batch():
    base = resolve("smollm2-135m-instruct-q4_1")
    requests = [replace(each, max_new_tokens=4) for each in requests_of(6, (None,), (10, 30, 150))]
    places = list(range(len(requests)))
    engine = LocalEngine(base)
    wanted = answers(engine, requests, places, len(requests), choices=CHOICES[:4])
    for size, other in ((1, engine), (6, LocalEngine(base, max_num_seqs=3, prefix_tokens=0))):
        order = random.Random(size).sample(places, len(places))
        assert answers(other, requests, order, size, choices=CHOICES[:4]) == wanted


@pytest.mark.parametrize("native", ["1", "0"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_of_a_token_depends_only_on_visible_tokens(monkeypatch, native, dtype):
    monkeypatch.setenv("SEARCHLORA_NATIVE", native)
    torch.manual_seed(0)
    rows, heads, key_heads, tokens, size = 3, 6, 2, 150, 24
    query = torch.randn(rows, heads, tokens, size).to(dtype)
    key, value = torch.randn(2, rows, key_heads, tokens, size).to(dtype)
    lowest = torch.finfo(dtype).min
    mask = torch.zeros(rows, 1, tokens, tokens, dtype=dtype)
    mask.masked_fill_(~torch.ones(tokens, tokens).tril().bool(), lowest)
    mask[1, 0, 70:, 5:9] = lowest
    module = torch.nn.Module()
    whole, _ = attend_invariant(module, query, key, value, mask)
    near = torch.nn.functional.scaled_dot_product_attention(
        query.float(), key.float(), value.float(), attn_mask=mask.float(), enable_gqa=True
    )
    torch.testing.assert_close(whole.float(), near.transpose(1, 2), rtol=2e-2, atol=2e-2)
    for row, start, end in ((0, 0, 1), (1, 63, 66), (1, 69, 149), (2, 17, 150)):
        seen = (row, slice(None), slice(None), slice(end + 1))
        part, _ = attend_invariant(
            module,
            query[row : row + 1, :, start:end],
            key[row : row + 1, :, : end + 1].contiguous(),
            value[row : row + 1, :, : end + 1].contiguous(),
            mask[row : row + 1, :, start:end, : end + 1].contiguous(),
        )
        assert torch.equal(part[0], whole[row, start:end]), seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(576, 192), (64, 1536), (1536, 576)])
def test_a_row_of_a_blocked_product_does_not_depend_on_other_rows(dtype, shape):
    torch.manual_seed(0)
    weight = torch.randn(shape).to(dtype)
    linear = blocked_linear(weight)
    x = torch.randn(677, shape[1]).to(dtype)
    whole = linear(x)
    torch.testing.assert_close(whole.float(), x.float() @ weight.float().T, rtol=2e-2, atol=0.5)
    for rows in ([5], [676, 0], list(range(676, -1, -1)), list(range(30, 70)), list(range(600))):
        assert torch.equal(linear(x[rows]), whole[rows])


def test_rotary_frequencies_that_depend_on_the_longest_row_are_not_batched():
    settings = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert check_batching(small("llama")).shares_batches
    refused = check_batching(small("llama", rope_parameters=settings, rope_scaling=settings))
    assert refused.refusal == "rotary frequencies that depend on the longest row"
    by_kind = {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}, "full_attention": settings}
    refused = check_batching(small("gemma3_text", rope_parameters=by_kind))
    assert refused.refusal == "rotary frequencies that depend on the longest row"
