"""Attention as two plain products, in which keys are not repeated for grouped queries."""

from __future__ import annotations

import torch


def plain(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Scaled dot-product attention; all scores are in memory at once.

    Args:
        query: Shape (rows, heads, new, size).
        key, value: Shape (rows, key heads, seen, size).
        mask: What each token sees (bool), or numbers that are added to the scores; shape (rows, 1, new, seen), or one
            that is broadcast to it. None: all is seen.

    Returns:
        Shape (rows, new, heads, size).
    """
    rows, heads, new, size = query.shape
    key_heads, seen = key.shape[1:3]
    group = heads // key_heads
    queries, keys = (query * scale).reshape(rows * key_heads, group * new, size), key.flatten(0, 1)
    if new == 1:  # a product with few rows is quick where the many stand on its left
        scores = torch.bmm(keys, queries.transpose(1, 2)).transpose(1, 2).contiguous()
    else:
        scores = torch.bmm(queries, keys.transpose(1, 2))
    of_heads = scores.view(rows, heads, new, seen)
    if mask is not None and mask.dtype == torch.bool:
        of_heads = of_heads.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        of_heads = of_heads.add_(mask)
    found = torch.bmm(of_heads.softmax(-1).view_as(scores), value.flatten(0, 1))
    return found.view(rows, heads, new, -1).transpose(1, 2)
