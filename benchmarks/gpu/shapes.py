"""Bases with random weights in the shapes of published ones, for a machine without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from searchlora.files.atomic import atomic_folder
from searchlora.models.libraries import quiet
from searchlora.models.load import load_tokenizer
from searchlora.models.resolve import resolve
from searchlora.recipe import load_recipe
from searchlora.testing import build_tiny_base

#: Name -> the architecture and its sizes, as their publishers give them.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3-4b": (
        "qwen3",
        {
            "vocab_size": 151_936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True,
        },
    ),
    "llama-8b": (
        "llama",
        {
            "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": False,
        },
    ),
}  # fmt: skip

#: A Llama of two layers over bytes, with which the benchmark is tried on a CPU.
TINY = "tiny"


def make_base(shape: str, folder: Path) -> Path:
    """The base of a shape, made in a folder unless it is there; its tokenizer is that of the default base."""
    if folder.is_dir():
        return folder
    with atomic_folder(folder) as partial:
        if shape == TINY:
            build_tiny_base(partial)
        else:
            _write(partial, *SHAPES[shape])
    return folder


def _write(folder: Path, architecture: str, sizes: dict[str, Any]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = load_tokenizer(resolve(load_recipe({}).base))
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = AutoConfig.for_model(architecture, max_position_embeddings=32_768, **sizes, **ids)
    torch.manual_seed(0)
    with quiet(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.to_empty(device="cpu")
    for name, weight in model.named_parameters():
        # Of the size that a trained model has, so that neither the attention nor the logits are sharp.
        weight.data.fill_(1) if name.endswith("norm.weight") else weight.data.normal_(std=0.02)
    if config.tie_word_embeddings:
        model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
