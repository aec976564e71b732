"""Random models of a few parameters, of any architecture."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM


def small(name: str, **settings):
    """A random model of another architecture."""
    sizes = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
    if name == "gpt2":
        sizes, heads = {"vocab_size": 260, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}, {}
    if name == "opt":
        sizes, heads = {"vocab_size": 260, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2}, {
            "num_attention_heads": 4, "max_position_embeddings": 256, "word_embed_proj_dim": 32,
        }  # fmt: skip
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **{**sizes, **heads, **settings})).eval()
