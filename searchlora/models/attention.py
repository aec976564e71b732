"""Scaled dot-product attention with grouped queries, used in training and inference.

On a CPU, attention over short sequences is two matrix products: PyTorch's blockwise kernel is slower there, above all
in the backward pass. Longer sequences, where the scores would not fit in memory, and GPUs use PyTorch's kernel.
"""

from __future__ import annotations

import torch

#: Scores (heads x new x seen) of one row up to which two matrix products are faster than the blockwise kernel.
_MAX_SCORES_PER_ROW = 10_000_000

#: Scores (rows x heads x new x seen) of a layer up to which they are kept for the backward pass.
_MAX_SCORES_WITH_GRADIENT = 5_000_000

#: Scores computed by one pair of products without gradients: few enough to stay in the CPU caches.
_SCORES_PER_BLOCK = 2_000_000


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float | None = None,
    *,
    causal: bool = False,
) -> torch.Tensor:
    """softmax(scale · Q Kᵀ + mask) V, with keys shared by groups of query heads.

    Args:
        query: Shape (rows, heads, new, size).
        key, value: Shape (rows, key heads, seen, size); `key heads` divides `heads`.
        mask: True where a token attends (bool), or values added to the scores; broadcastable to
            (rows, 1, new, seen), with 4 dimensions. None: every token attends to all.
        scale: 1/√size if None.
        causal: Without a mask, token i attends to the first `seen - new + i + 1` tokens.

    Returns:
        Shape (rows, new, heads, size).
    """
    rows, heads, new, size = query.shape
    key_heads, seen = key.shape[1:3]
    scale = size**-0.5 if scale is None else scale
    causal = causal and mask is None
    scores_per_row = heads * new * seen
    needs_gradient = torch.is_grad_enabled() and any(each.requires_grad for each in (query, key, value))
    too_many = (
        rows * scores_per_row > _MAX_SCORES_WITH_GRADIENT if needs_gradient else scores_per_row > _MAX_SCORES_PER_ROW
    )
    uses_kernel = too_many or query.device.type != "cpu"
    if causal and not (uses_kernel and new == seen):
        mask = torch.ones(1, 1, new, seen, dtype=torch.bool, device=query.device).tril(seen - new)
    if uses_kernel:
        output = torch.nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            scale=scale,
            is_causal=causal and mask is None,
            enable_gqa=heads != key_heads,
        )
        return output.transpose(1, 2)
    if needs_gradient:
        return _matmul_attention(query, key, value, mask, scale)
    block = max(1, _SCORES_PER_BLOCK // scores_per_row)
    per_row_mask = mask is not None and mask.shape[0] == rows
    outputs = []
    for start in range(0, rows, block):
        some = slice(start, start + block)
        block_mask = mask[some] if mask is not None and per_row_mask else mask
        outputs.append(_matmul_attention(query[some], key[some], value[some], block_mask, scale))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _matmul_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Attention as two matrix products; all scores are in memory at once and keys are not repeated for the groups."""
    rows, heads, new, size = query.shape
    key_heads, seen = key.shape[1:3]
    group = heads // key_heads
    queries, keys = (query * scale).reshape(rows * key_heads, group * new, size), key.flatten(0, 1)
    if new == 1:  # with few rows on one side, the product is faster with the many keys on the left
        scores = torch.bmm(keys, queries.transpose(1, 2)).transpose(1, 2).contiguous()
    else:
        scores = torch.bmm(queries, keys.transpose(1, 2))
    per_head = scores.view(rows, heads, new, seen)
    if mask is not None and mask.dtype == torch.bool:
        per_head = per_head.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        per_head = per_head.add_(mask)
    output = torch.bmm(per_head.softmax(-1).view_as(scores), value.flatten(0, 1))
    return output.view(rows, heads, new, -1).transpose(1, 2)
