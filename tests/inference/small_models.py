"""Random models of a few parameters, of any architecture, and engine cores of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from searchlora.adapters.store import Store
from searchlora.inference.batched.forward import BatchingCheck
from searchlora.inference.batched.model_runner import batched_core
from searchlora.inference.local import LocalEngine
from searchlora.inference.scheduling.engine_core import EngineCore
from searchlora.inference.scheduling.requests import Limits, TokenIds
from searchlora.inference.sequential import score_sequences, sequential_core
from searchlora.inference.settings import LocalSettings
from searchlora.models.resolve import BaseModel
from tests.factories import first_word, random_adapter


def small(name: str, **settings):
    """A random model of another architecture."""
    sizes = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
    if name == "gpt2":
        sizes, heads = {"vocab_size": 260, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}, {}
    if name == "gemma3":  # with a vision tower
        text = {**sizes, **heads, **settings}
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        sizes, heads = {"text_config": text, "vision_config": {**vision, "image_size": 28, "patch_size": 14}}, {}
        settings = {}
    if name == "opt":
        sizes, heads = {"vocab_size": 260, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2}, {
            "num_attention_heads": 4, "max_position_embeddings": 256, "word_embed_proj_dim": 32,
        }  # fmt: skip
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **{**sizes, **heads, **settings})).eval()


def batched(
    model, fetch=lambda _: None, *, rows=8, cache_tokens=8192, prefix_tokens=1024, slots=2, batch_invariant=False
) -> EngineCore:
    """An engine core of a small model whose requests share batches; `cache_tokens` None: as if it were not given."""
    given = {} if cache_tokens is None else {"cache_tokens": cache_tokens}
    settings = LocalSettings(max_loras=slots, prefix_tokens=prefix_tokens, batch_invariant=batch_invariant, **given)
    return batched_core(model, 2, fetch, settings, Limits(rows, settings.cache_tokens, 512, 64))


def local_engine(kind: str, base: BaseModel, **settings) -> LocalEngine:
    """An engine in fp32 that shares batches, or ("one adapter") computes one adapter at a time."""
    with pytest.MonkeyPatch.context() as patch:
        if kind == "one adapter":
            patch.setattr("searchlora.inference.batched.forward.check_batching", lambda _: BatchingCheck("of a test"))
        return LocalEngine(base, precision="fp32", **settings)


def random_store(base: BaseModel, folder: Path, *names: str) -> Store:
    """A store with a random adapter of each name."""
    store, task = Store(folder / "store"), first_word(folder / "task")
    for seed, name in enumerate(names):
        random_adapter(store, name, task, base, folder / f"made {seed}", seed)
    return store


def ids(count: int, seed: int = 0) -> TokenIds:
    """Random token ids."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, 250, (count,), generator=generator).tolist())


def sequential(model, rows: int, context: int | None = None, pad_id: int = 1) -> EngineCore:
    """An engine core of a small model that computes one adapter at a time."""
    settings, limits = LocalSettings(max_loras=2, batch_invariant=False), Limits(rows, 4096, 512, 64)
    return sequential_core(model, 2, pad_id, lambda _: None, settings, limits, context)


def greedy(model, prompt: TokenIds, tokens: int) -> list[int]:
    """The most likely answer by the model alone, one token after the other; 2 ends it."""
    answer: list[int] = []
    with torch.inference_mode():
        while len(answer) < tokens and answer[-1:] != [2]:
            answer.append(int(model(torch.tensor([[*prompt, *answer]])).logits[0, -1].argmax()))
    return answer


def full_scores(model, prompts, choices) -> list[tuple[float, ...]]:
    """Log-probabilities of choices by the model alone: each choice with its whole prompt before it."""
    pairs = zip(prompts, choices, strict=True)
    return [score_sequences(model, prompt, row, len(row)).log_probabilities for prompt, row in pairs]
