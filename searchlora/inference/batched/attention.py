"""Attention over keys and values that lie in place, registered with transformers by name."""

from __future__ import annotations

from typing import Any

import torch

from searchlora.inference.batched.native import kernels
from searchlora.models.attention import plain

#: As the model's `_attn_implementation`.
NAME = "searchlora"

#: Scores (rows x heads x new x seen) up to which two plain products beat the blockwise kernel on a CPU, whose start is
#: costly: at one new token a row it takes several times as long.
_PLAIN = 4_000_000


def register() -> None:
    """Make `NAME` known to transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention with grouped queries, in which keys are not repeated.

    Args:
        query: Shape (rows, heads, new, size).
        key, value: Shape (rows, key heads, seen, size).
        attention_mask: Added to the scores; shape (rows, 1, new, seen).

    Returns:
        Shape (rows, new, heads, size).
    """
    del module, dropout
    rows, heads, new, size = query.shape
    key_heads, seen = key.shape[1:3]
    scale = size**-0.5 if scaling is None else scaling
    compiled = kernels(query) if new == 1 else None
    if compiled and attention_mask is not None and compiled.can_attend(query, key, value, attention_mask):
        return compiled.attend(query, key, value, attention_mask, scale), None
    if rows * heads * new * seen > _PLAIN or query.device.type != "cpu":
        found = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scale, enable_gqa=heads != key_heads
        )
        return found.transpose(1, 2), None
    return plain(query, key, value, attention_mask, scale), None
