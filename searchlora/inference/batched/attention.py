"""Attention over the KV cache, registered with transformers by name."""

from __future__ import annotations

from typing import Any

import torch

from searchlora.inference.batched.native import kernels
from searchlora.models.attention import attention

#: The model's `_attn_implementation`.
NAME = "searchlora"


def register() -> None:
    """Register `attend` with transformers as `NAME`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a batched model: a compiled kernel for one new token per row, else `models.attention`.

    Args:
        module: Unused; transformers passes the attention layer.
        query: Shape (rows, heads, new, size).
        key, value: Shape (rows, key heads, columns, size).
        attention_mask: Added to the scores; shape (rows, 1, new, columns).
        scaling: Factor of the scores; 1/√size if None.

    Returns:
        Shape (rows, new, heads, size), and None in the place of the attention weights.
    """
    del module
    compiled = kernels(query) if query.shape[2] == 1 else None
    if compiled and attention_mask is not None and compiled.supports_attention(query, key, value, attention_mask):
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return compiled.attention(query, key, value, attention_mask, scale), None
    return attention(query, key, value, attention_mask, scaling), None
