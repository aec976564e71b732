"""What the engine asks of a GPU: kernels and waits of a step, masks, and keys that are not repeated for heads."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from searchlora.inference.batched.attention import _attend_grouped, attend
from searchlora.inference.batched.decode import BatchRow, DecodeBatch
from searchlora.inference.batched.forward import Forward
from searchlora.inference.batched.lora_layers import LoraWeights
from searchlora.inference.batched.prefill import Prefiller, Prompt
from searchlora.inference.batched.prefix_cache import PrefixCache
from searchlora.inference.constrained import mask_logits
from searchlora.inference.sampling import Sampling, TokenSampler
from searchlora.inference.scheduling.engine_core import Counts
from searchlora.inference.scheduling.requests import GenerateRequest, Limits
from searchlora.inference.transfers import to_device
from tests.inference.batched.fake_gpu import Host, Kernels
from tests.inference.small_models import small

ROWS, LAYERS = 8, 6
KINDS = ["sliding_attention", "full_attention"] * 3
#: Names of the linear layers of a Qwen3 layer -> (out, in).
SHAPES = {"q_proj": (32, 32), "k_proj": (16, 32), "v_proj": (16, 32), "o_proj": (32, 32)}


class AllowAll:
    """A matcher that allows every token."""

    def compute_bitmask(self):
        return b"\xff" * 36

    def is_error(self):
        return False

    def consume_token(self, token):
        del token

    def is_accepting(self):
        return True


def model_on_device(name="qwen3"):
    settings = {"gemma3_text": {"sliding_window": 4, "layer_types": KINDS}, "mistral": {"sliding_window": 4}}
    with torch.device("meta"):
        return small(name, num_hidden_layers=LAYERS, **settings.get(name, {}))


def generating(slots, *, batch_invariant=False, requests=None, lengths=range(5, 5 + ROWS), name="qwen3"):
    """A batch on the device whose rows have written one token each."""
    forward = Forward(model_on_device(name), batch_invariant=batch_invariant)
    prefiller = Prefiller(forward, PrefixCache(0), Limits(ROWS, 4096, 4096, 64), Counts())
    batch = DecodeBatch(prefiller, stop_id=2)
    for slot in set(slots) - {0}:
        for layer in range(LAYERS):
            weights = {
                f"model.layers.{layer}.self_attn.{name}": LoraWeights(
                    torch.empty(8, size_in, device="meta"), torch.empty(size_out, 8, device="meta")
                )
                for name, (size_out, size_in) in SHAPES.items()
            }
            for group in forward.lora_layers.groups:
                if any(path in weights for path in group.paths):
                    group.put(slot, group.pack([weights.get(path) for path in group.paths]))
    requests = requests or [GenerateRequest(ids=(5,) * length, max_new_tokens=9) for length in lengths]
    batch.rows = [
        BatchRow(request, ids=[7], prompt=Prompt(request.ids, None, slot))
        for request, slot in zip(requests, slots, strict=True)
    ]
    batch._cache.reserve(ROWS, 64, 4096)
    return batch


def step(batch):
    """The kernels and the host's waits of one step, after another one that fills what is computed once."""
    with torch.inference_mode():
        with Kernels() as kernels, Host(kernels):
            batch.step()
        with Kernels() as kernels, Host(kernels) as host:
            batch.step()
    return kernels, host


def plain_step():
    """The kernels of a step of transformers' own cache and attention for the same rows."""
    model = model_on_device()
    cache = DynamicCache(config=model.config)
    ids = torch.zeros(ROWS, 5, dtype=torch.long, device="meta")
    with torch.inference_mode():
        with Kernels() as kernels, Host(kernels):
            model(ids, past_key_values=cache)
        with Kernels() as kernels, Host(kernels):
            model(ids[:, :1], past_key_values=cache, attention_mask=None)
    return kernels


@pytest.mark.parametrize("lengths", [range(5, 5 + ROWS), [5] * ROWS])
def test_a_step_launches_at_most_a_fifth_more_kernels_than_the_model_alone(lengths):
    kernels, _ = step(generating([0] * ROWS, lengths=lengths))
    plain = plain_step()
    assert plain.counts["attention"] == kernels.counts["attention"] == LAYERS
    assert kernels.total <= 1.2 * plain.total, (kernels.counts, plain.counts)


def requests_of(kind):
    """Requests that are greedy, constrained by a grammar, drawn, or that report log-probabilities."""
    common = {"ids": (5, 6, 7), "max_new_tokens": 9}
    samplings = {"drawn": Sampling(temperature=0.7, top_p=0.9, seed=1), "with log-probabilities": Sampling(logprobs=3)}
    return [
        GenerateRequest(
            **common,
            matcher=AllowAll() if kind == "grammar" else None,
            sampler=TokenSampler(samplings[kind]) if kind in samplings else None,
        )
        for _ in range(ROWS)
    ]


@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize("slots", [[0] * ROWS, [0, 1, 2, 1, 3, 3, 1, 0]])
@pytest.mark.parametrize(
    ("kind", "waits"), [("greedy", 1), ("grammar", 1), ("drawn", 1), ("with log-probabilities", 2)]
)
def test_the_host_waits_for_the_tokens_of_a_step_and_for_nothing_else(monkeypatch, kind, waits, slots, batch_invariant):
    monkeypatch.setattr(torch, "allclose", lambda *_, **__: True)  # of the rotary table
    _, host = step(generating(slots, batch_invariant=batch_invariant, requests=requests_of(kind)))
    assert host.waits == {"tolist": waits}
    assert host.copies <= 12  # none per layer


@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize("name", ["gemma3_text", "mistral"])
@pytest.mark.parametrize("lengths", [range(5, 5 + ROWS), [5] * ROWS])
def test_a_sliding_window_needs_no_further_wait(monkeypatch, name, lengths, batch_invariant):
    monkeypatch.setattr(torch, "allclose", lambda *_, **__: True)
    _, host = step(generating([0] * ROWS, lengths=lengths, name=name, batch_invariant=batch_invariant))
    assert host.waits == {"tolist": 1}


@pytest.mark.parametrize(("name", "batch_invariant"), [("qwen3", True), ("gemma3_text", False)])
def test_the_mask_of_a_prompt_is_made_once_for_all_layers_of_a_kind(monkeypatch, name, batch_invariant):
    monkeypatch.setattr(torch, "allclose", lambda *_, **__: True)
    prefiller = generating([0] * ROWS, name=name, batch_invariant=batch_invariant)._prefiller
    monkeypatch.setattr(prefiller, "check_finite", lambda *_: None)  # which waits, and there are no numbers
    prompts = [Prompt((5,) * length, None, 0) for length in (9, 12, 15)]
    with torch.inference_mode(), Kernels() as kernels, Host(kernels) as host:
        prefiller.prefill(prompts, prefiller.forward.new_cache(), 0)
    masks = {id(call["attn_mask"]): call["attn_mask"] for call in host.attention}.values()
    assert [mask.shape for mask in masks] == [(3, 1, 2 * 15, 15)] * (2 if name == "gemma3_text" else 1)
    assert all(mask.stride(2) == 16 for mask in masks)  # as PyTorch's kernels want it
    assert not host.waits


def test_adapters_cost_as_many_kernels_as_they_have_ranks_not_as_they_are():
    one, _ = step(generating([1] * ROWS))
    many, _ = step(generating([1, 2, 3, 4, 5, 6, 7, 8]))
    base, _ = step(generating([0] * ROWS))
    assert many.total == one.total
    assert one.total - base.total <= 10 * LAYERS * 2  # two groups of linear layers are changed


def test_batch_invariant_attention_is_one_kernel_a_layer_for_any_number_of_rows(monkeypatch):
    monkeypatch.setattr(torch, "allclose", lambda *_, **__: True)
    kernels, host = step(generating([0] * ROWS, batch_invariant=True))
    assert kernels.counts["attention"] == LAYERS
    assert all(call["key"][1] == 2 for call in host.attention)
    assert kernels.total <= 2.2 * plain_step().total, kernels.counts  # norms and products are padded to blocks


def test_keys_are_not_repeated_and_rows_of_one_length_need_no_mask():
    _, host = step(generating([0] * ROWS, lengths=[5] * ROWS))
    assert all(call["attn_mask"] is None and call["enable_gqa"] for call in host.attention)
    kernels, host = step(generating([0] * ROWS))
    assert all(call["key"][1] == 2 and call["attn_mask"].shape[1:] == (1, 2, 6 + ROWS) for call in host.attention)
    assert all(call["attn_mask"].stride(0) % 16 == 0 for call in host.attention)  # as PyTorch's kernels want it
    assert (
        kernels.most_elements <= ROWS * 260
    )  # the logits; keys repeated for heads are as many as ROWS * 4 * 14 * 8 = 3584


def test_a_grammar_takes_one_bit_per_token_to_the_device():
    sizes = []

    class Sizes(Host):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if getattr(func, "__name__", "") == "to":
                sizes.append((args[0].dtype, tuple(args[0].shape)))
            return super().__torch_function__(func, types, args, kwargs)

    with Kernels() as kernels, Sizes(kernels):
        assert mask_logits({1: AllowAll(), 3: AllowAll()}, torch.empty(4, 260, device="meta")) == {}
    assert sizes == [(torch.int32, (4, 9))]
    assert kernels.most_elements <= 4 * 9 * 32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("new", [1, 3, 9])
def test_attention_on_a_gpu_computes_what_the_cpu_does(new, dtype):
    """The two ways of a GPU, computed by the CPU's kernels of PyTorch."""
    torch.manual_seed(0)
    query = torch.randn(2, 6, new, 16).to(dtype)
    key, value = torch.randn(2, 2, 2, 9, 16).to(dtype)
    mask = torch.zeros(2, 1, new, 9, dtype=dtype)
    mask.masked_fill_(torch.ones(new, 9).tril(9 - new) == 0, torch.finfo(dtype).min)
    expected, _ = attend(torch.nn.Module(), query, key, value, mask)
    causal, _ = attend(torch.nn.Module(), query, key, value, None)
    grouped = _attend_grouped(query, key, value, mask, 0.25)
    of_group = _attend_grouped(query, key, value, mask.repeat(1, 1, 3, 1), 0.25)
    for found in (causal, grouped, of_group):
        torch.testing.assert_close(found, expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2)


def test_a_prompt_without_a_mask_gives_the_same_answer(monkeypatch):
    """Forced on the CPU, through transformers' own model."""
    hidden = []
    for needs_mask in (True, False):
        monkeypatch.setenv("SEARCHLORA_NATIVE", "0")
        monkeypatch.setattr(Forward, "needs_mask", needs_mask)
        forward = Forward(small("qwen3"))
        prefiller = Prefiller(forward, PrefixCache(0), Limits(4, 4096, 4096, 64), Counts())
        prompts = [Prompt((5, 6, 7, 8), None, 0), Prompt((9, 8), None, 0)]
        with torch.inference_mode():
            hidden.append(prefiller.prefill(prompts, forward.new_cache(), 0))
    torch.testing.assert_close(*hidden, rtol=1e-4, atol=1e-5)


def test_a_gpu_copies_from_pinned_memory_and_nobody_waits(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: calls.append("pinned") or tensor)
    monkeypatch.setattr(torch.Tensor, "to", lambda _, device, **how: calls.append((device, how)))
    to_device(torch.zeros(2), "cuda")
    assert calls == ["pinned", ("cuda", {"non_blocking": True})]
