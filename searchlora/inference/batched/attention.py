"""Attention over the KV cache, registered with transformers by name: a fast and a batch-invariant variant."""

from __future__ import annotations

from typing import Any

import torch

from searchlora.models.attention import attention
from searchlora.models.native import kernels

#: The model's `_attn_implementation`, and that of a batch-invariant model.
NAME, INVARIANT_NAME = "searchlora", "searchlora-batch-invariant"

#: Columns and tokens of one step of `attend_invariant` without compiled kernels.
_COLUMN_BLOCK, _TOKEN_BLOCK = 64, 16


def register() -> None:
    """Register both variants with transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    AttentionInterface.register(INVARIANT_NAME, attend_invariant)


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


def attend_invariant(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Batch-invariant attention: the result of a token depends on that token and on what it attends to, only.

    It is independent, to the last bit, of the other rows, of the other tokens of the pass, and of how many columns the
    pass reads. The compiled kernel has this property. Without it, tokens are computed in products of fixed shapes: each
    with the columns up to the end of the last block that it attends to.

    Args and returns: as `attend`.
    """
    del module
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    compiled = kernels(query)
    if compiled and compiled.supports_attention(query, key, value, attention_mask):
        return compiled.attention(query, key, value, attention_mask, scale), None
    rows, heads, new, size = query.shape
    columns = key.shape[2]
    hidden = torch.finfo(attention_mask.dtype).min
    padding = (0, -columns % _COLUMN_BLOCK)
    mask = torch.nn.functional.pad(attention_mask[:, 0], padding, value=hidden)
    key, value = (torch.nn.functional.pad(each, (0, 0, *padding)) for each in (key, value))
    blocks = (mask > hidden / 2).view(rows, new, -1, _COLUMN_BLOCK).any(3)
    last_block = (blocks * torch.arange(1, blocks.shape[2] + 1, device=blocks.device)).amax(2)  # (rows, new)
    output = query.new_empty(rows, new, heads, size)
    for row, of_row in enumerate(last_block.tolist()):
        for count in sorted(set(of_row)):
            tokens = [token for token, block in enumerate(of_row) if block == count]
            for start in range(0, len(tokens), _TOKEN_BLOCK):
                here = tokens[start : start + _TOKEN_BLOCK]
                padded = [*here, *here[:1] * (_TOKEN_BLOCK - len(here))]
                until = count * _COLUMN_BLOCK
                found = _attend_tokens(
                    query[row, :, padded], key[row, :, :until], value[row, :, :until], mask[row, padded, :until], scale
                )
                output[row, here] = found[: len(here)]
    return output, None


def _attend_tokens(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """Each token alone in a batched product; query (heads, tokens, size) -> (tokens, heads, size)."""
    heads, tokens, size = query.shape
    key_heads = key.shape[0]
    grouped = (query * scale).view(key_heads, heads // key_heads, tokens, size).permute(2, 0, 1, 3)
    scores = grouped @ key.transpose(1, 2).expand(tokens, -1, -1, -1) + mask[:, None, None]
    return (scores.softmax(-1) @ value.expand(tokens, -1, -1, -1)).reshape(tokens, heads, size)
