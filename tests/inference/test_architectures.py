"""Which architectures are batched, and equality of results with the model alone."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from peft import LoraConfig, get_peft_model

from searchlora.adapters.target_modules import target_modules
from searchlora.inference.batched.attention import NAME
from searchlora.inference.batched.forward import check_batching
from searchlora.inference.batched.invariance import has_unknown_rotary
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.inference.scheduling.requests import GenerateRequest, ScoreRequest
from searchlora.models.resolve import resolve
from searchlora.testing import build_tiny_base
from tests.factories import random_adapter_folder
from tests.inference.small_models import batched, full_scores, greedy, local_engine, small

PROMPTS = [(5, 6, 7, 8, 9, 10, 11), (9, 8)]
MIXED = ["sliding_attention", "full_attention"]
ANSWERS = [((7, 8, 9, 12, 13, 2), (7, 9, 2), (8, 2)), ((3, 4, 2), (3, 4, 5, 2), (6, 2))]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {"attn_implementation": "eager"}),
        ("llama", {"attention_bias": True}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("gpt2", {}),
        ("gemma", {}),
        ("mistral", {"sliding_window": None}),
        ("mistral", {"sliding_window": 4}),  # shorter than the prompts
        ("mistral", {"sliding_window": 64}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "layer_types": MIXED}),
        ("gemma2", {"sliding_window": 4}),
        ("gemma3_text", {"sliding_window": 4, "layer_types": MIXED}),
        ("gemma3", {"sliding_window": 4, "layer_types": MIXED}),  # with a vision tower
        ("phi3", {"pad_token_id": 0, "sliding_window": None}),
        ("phi3", {"pad_token_id": 0, "sliding_window": 4}),
        ("smollm3", {"pad_token_id": 0, "num_hidden_layers": 4}),  # the fourth layer has no rotary embeddings
        ("mixtral", {"num_local_experts": 4}),
        ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}),
        ("granite", {"logits_scaling": 8.0}),
        ("cohere", {"logit_scale": 0.06}),
        ("opt", {}),  # its last linear layers are given the tokens of all rows in one
    ],
)
def test_architectures_are_batched_or_detected_as_sequential(name, settings):
    model = small(name, **settings)
    taken = check_batching(model).shares_batches
    assert taken == (name not in ("gemma2", "granite", "cohere", "opt"))
    if not taken:
        return
    wanted = [greedy(model, prompt, 9) for prompt in PROMPTS]
    scores = full_scores(model, PROMPTS, ANSWERS)
    shared = batched(model, rows=4)
    for within in (None, 50.0):
        writing = [GenerateRequest(ids=prompt, max_new_tokens=9) for prompt in PROMPTS]
        scoring = [
            ScoreRequest(ids=prompt, choices=each, prune_margin=within)
            for prompt, each in zip(PROMPTS, ANSWERS, strict=True)
        ]
        shared.finish([*writing, *scoring])
        assert [request.result.result() for request in writing] == wanted
        for row, request in enumerate(scoring):
            assert request.result.result().log_probabilities == pytest.approx(scores[row], abs=1e-4)


@pytest.mark.slow
def test_a_sequential_model_gives_the_same_answers(tiny_base, tmp_path):
    folder, _ = random_adapter_folder(tiny_base, tmp_path / "made", seed=3)
    requests = [
        Request(({"role": "user", "content": text},), name, 6) for text in ("tent", "a boot") for name in (None, "c")
    ]
    choices = [["card", "cargo"], ["card"], [], ["tent", "boot", "lamp"]]
    found = []
    for kind in ("batched", "one adapter"):
        engine = local_engine(kind, tiny_base)
        assert engine.shares_batches == (kind == "batched")
        engine.load_folder("c", folder)
        found.append((engine.generate(requests), engine.score(requests, choices)))
        assert (engine.stats().loaded, engine.stats().scored_requests) == (("c",), 3)
        assert engine.unload("c")
        assert not engine.unload("c")
        engine.close()
    (shared, shared_scores), (alone, alone_scores) = found
    assert shared == alone
    for one, other in zip(shared_scores, alone_scores, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=5e-3)


def test_a_base_with_sliding_window_attention_is_served(tmp_path):
    from transformers import MistralConfig, MistralForCausalLM

    folder = build_tiny_base(tmp_path / "base")
    config = MistralConfig(
        vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=256, sliding_window=4,
    )  # fmt: skip
    torch.manual_seed(0)
    MistralForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    engine = LocalEngine(resolve(str(folder)), precision="fp32")
    assert engine.shares_batches
    (completion,) = engine.generate([Request(({"role": "user", "content": "tent"},), None, 5)])
    assert completion.completion_tokens <= 5


def test_a_mixture_of_experts_claims_batch_invariance_only_where_it_computes_one_row_at_a_time(tmp_path):
    from transformers import MixtralConfig, MixtralForCausalLM

    folder = build_tiny_base(tmp_path / "base")
    config = MixtralConfig(
        vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=256, num_local_experts=4,
    )  # fmt: skip
    torch.manual_seed(0)
    MixtralForCausalLM(config).save_pretrained(folder)
    base = resolve(str(folder))
    requests = [Request(({"role": "user", "content": text},), None, 5) for text in ("tent", "a boot", "lamp " * 9)]
    shared, alone = (LocalEngine(base, precision="fp32", batch_invariant=asked) for asked in (None, True))
    assert (shared.shares_batches, shared.batch_invariant) == (True, False)
    assert shared.engine_id == "local, fp32, not batch invariant"
    assert (alone.shares_batches, alone.batch_invariant, alone.engine_id) == (False, True, "local, fp32")
    choices = ["card", "cargo"]
    together = alone.score(requests, [choices] * 3)
    assert together == [alone.score([request], [choices])[0] for request in reversed(requests)][::-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_difference_to_the_model_is_compared_with_its_own_noise(dtype):
    same = check_batching(small("llama").to(dtype))
    assert same.shares_batches and same.difference <= 8 * max(same.noise, torch.finfo(dtype).eps * same.spread)
    scaled = small("llama").to(dtype)

    def half_a_per_cent_off_in_batches(_module, _inputs, output):
        """Below the rounding of bf16, but far above that of fp32."""
        return output * (1.005 if scaled.config._attn_implementation == NAME else 1)

    scaled.model.norm.register_forward_hook(half_a_per_cent_off_in_batches)
    assert check_batching(scaled).shares_batches == (dtype == torch.bfloat16)


def test_adapters_change_the_language_model_of_a_base_with_a_vision_tower(tmp_path):
    settings = {"sliding_window": 20, "layer_types": MIXED}
    base = small("gemma3", **settings)
    made = get_peft_model(base, LoraConfig(r=2, target_modules=target_modules(base, "qv")))
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    made.save_pretrained(tmp_path)
    shared = batched(small("gemma3", **settings), lambda _: nullcontext(tmp_path), batch_invariant=True)
    paths = shared._runner._prefiller.forward.lora_layers.paths
    assert paths and all("language_model" in path for path in paths)
    requests = [GenerateRequest(ids=PROMPTS[0], adapter=name, max_new_tokens=9) for name in ("a", None)]
    shared.finish(requests)
    wanted = [greedy(model, PROMPTS[0], 9) for model in (made.eval(), small("gemma3", **settings))]
    assert [request.result.result() for request in requests] == wanted and wanted[0] != wanted[1]


def test_a_base_whose_rotary_embeddings_no_table_holds_computes_one_row_at_a_time(tiny_base, monkeypatch):
    model = small("llama")
    assert not has_unknown_rotary(model)
    rotary = model.model.rotary_emb
    real = rotary.forward
    monkeypatch.setattr(rotary, "forward", lambda x, positions, _lengths: real(x, positions))
    assert has_unknown_rotary(model)
    monkeypatch.setattr("searchlora.inference.batched.invariance.has_unknown_rotary", lambda _: True)
    engine, other = (LocalEngine(tiny_base, batch_invariant=invariant) for invariant in (True, False))
    assert (engine.shares_batches, engine.batch_invariant, engine._core._runner._limits.rows) == (False, True, 1)
    assert other.shares_batches
