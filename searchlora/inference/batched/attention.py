"""Attention over the KV cache, registered with transformers by name: a fast and a batch-invariant variant.

Attention over short sequences is two matrix products: PyTorch's blockwise kernel is slower there. It computes longer
sequences, where the scores would not fit in memory.
"""

from __future__ import annotations

from typing import Any

import torch

from searchlora.cpu import backend

#: The model's `_attn_implementation`, and that of a batch-invariant model.
NAME, INVARIANT_NAME = "searchlora", "searchlora-batch-invariant"

#: Scores (heads x new x columns) of one row up to which two matrix products are faster than the blockwise kernel.
_MAX_SCORES_PER_ROW = 10_000_000

#: Scores computed by one pair of products: few enough to stay in the CPU caches.
_SCORES_PER_BLOCK = 2_000_000

#: Columns and tokens of one step of `attend_invariant` in PyTorch.
_COLUMN_BLOCK, _TOKEN_BLOCK = 64, 16


def register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    AttentionInterface.register(INVARIANT_NAME, attend_invariant)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """softmax(scaling · Q Kᵀ + mask) V, with keys shared by groups of query heads.

    `attention_mask`: Added to the scores; shape (rows, 1, new, columns). Returns shape (rows, new, heads, size), and
    None in the place of the attention weights.
    """
    del module
    rows, heads, new, size = query.shape
    scale = size**-0.5 if scaling is None else scaling
    if new == 1:
        compiled = backend.attention(query, key, value, attention_mask, scale)
        if compiled is not None:
            return compiled, None
    scores_per_row = heads * new * key.shape[2]
    if scores_per_row > _MAX_SCORES_PER_ROW:
        grouped = heads != key.shape[1]
        output = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scale, enable_gqa=grouped
        )
        return output.transpose(1, 2), None
    step = max(1, _SCORES_PER_BLOCK // scores_per_row)
    blocks = [slice(start, start + step) for start in range(0, rows, step)]
    mask = attention_mask.expand(rows, -1, -1, -1)
    outputs = [_attend_rows(query[block], key[block], value[block], mask[block], scale) for block in blocks]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs), None


def _attend_rows(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention as two matrix products; all scores are in memory at once and keys are not repeated for the groups."""
    rows, heads, new, size = query.shape
    key_heads, columns = key.shape[1:3]
    group = heads // key_heads
    queries, keys = (query * scale).reshape(rows * key_heads, group * new, size), key.flatten(0, 1)
    if new == 1:  # with few rows on one side, the product is faster with the many keys on the left
        scores = torch.bmm(keys, queries.transpose(1, 2)).transpose(1, 2).contiguous()
    else:
        scores = torch.bmm(queries, keys.transpose(1, 2))
    scores.view(rows, heads, new, columns).add_(mask)
    output = torch.bmm(scores.softmax(-1), value.flatten(0, 1))
    return output.view(rows, heads, new, -1).transpose(1, 2)


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
    pass reads. PyTorch computes tokens in products of fixed shapes: each with the columns up to the end of the last
    block that it attends to.

    Args and returns: as `attend`.
    """
    del module
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    compiled = backend.attention(query, key, value, attention_mask, scale)
    if compiled is not None:
        return compiled, None
    rows, heads, new, size = query.shape
    columns = key.shape[2]
    hidden = torch.finfo(attention_mask.dtype).min
    padding = (0, -columns % _COLUMN_BLOCK)
    mask = torch.nn.functional.pad(attention_mask[:, 0], padding, value=hidden)
    key, value = (torch.nn.functional.pad(states, (0, 0, *padding)) for states in (key, value))
    blocks = (mask > hidden / 2).view(rows, new, -1, _COLUMN_BLOCK).any(3)
    last_block = (blocks * torch.arange(1, blocks.shape[2] + 1)).amax(2)  # (rows, new)
    output = query.new_empty(rows, new, heads, size)
    for row, of_row in enumerate(last_block.tolist()):
        for count in sorted(set(of_row)):
            tokens = [token for token, block in enumerate(of_row) if block == count]
            for start in range(0, len(tokens), _TOKEN_BLOCK):
                here = tokens[start : start + _TOKEN_BLOCK]
                padded = [*here, *here[:1] * (_TOKEN_BLOCK - len(here))]
                until = count * _COLUMN_BLOCK
                attended = _attend_tokens(
                    query[row, :, padded], key[row, :, :until], value[row, :, :until], mask[row, padded, :until], scale
                )
                output[row, here] = attended[: len(here)]
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
