"""Attention over keys and values that lie in place, registered with transformers by name."""

from __future__ import annotations

from typing import Any

import torch

from searchlora.inference.batched.native import kernels
from searchlora.models.attention import plain

#: As the model's `_attn_implementation`.
NAME = "searchlora"

#: Scores (heads x new x seen) of one row up to which two plain products beat the blockwise kernel on a CPU.
_OF_ROW = 10_000_000

#: Scores of the rows that are computed by one pair of products: few enough to stay near the cores.
_AT_ONCE = 2_000_000


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
    of_row = heads * new * seen
    if of_row > _OF_ROW or query.device.type != "cpu":
        found = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scale, enable_gqa=heads != key_heads
        )
        return found.transpose(1, 2), None
    together = max(1, _AT_ONCE // of_row)
    parts = [
        plain(query[some], key[some], value[some], None if attention_mask is None else attention_mask[some], scale)
        for some in (slice(start, start + together) for start in range(0, rows, together))
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts), None
