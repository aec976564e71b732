"""The CPU backend: each function replaces a part of what PyTorch computes, and returns None where PyTorch must do it.

That is on a GPU, without a C compiler, with SEARCHLORA_NATIVE=0, and for layers and models of another kind. Results are
PyTorch's up to rounding, and a row's result does not depend on the rows that are computed with it. Inference calls
`frozen_linear`, `lora_slots`, `attention`, `fuse_layers`, `sample` and `log_probabilities`; training calls
`fused_model`. `benchmarks/multi_adapter` and `benchmarks/training` measure what they gain.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from searchlora.cpu.fused_layers import fuse_layers
from searchlora.cpu.fused_model import fused_model
from searchlora.cpu.huge_pages import release_files, release_free_memory, use_huge_pages
from searchlora.cpu.kernels import kernels
from searchlora.cpu.packed import CompiledLinear, PackedSlots, PrepackedLinear, padded_rank
from searchlora.models.processor import multiplies_bf16

__all__ = [
    "attention",
    "frozen_linear",
    "fuse_layers",
    "fused_model",
    "instructions",
    "log_probabilities",
    "lora_slots",
    "padded_rank",
    "release_files",
    "release_free_memory",
    "sample",
    "use_huge_pages",
]


def instructions(dtype: torch.dtype) -> str | None:
    """How products with frozen weights are computed in a precision, for people."""
    compiled = kernels(torch.empty(0, dtype=dtype))
    return None if compiled is None else compiled.path


def frozen_linear(
    weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype, batch_invariant: bool
) -> PrepackedLinear | CompiledLinear | None:
    """A frozen linear layer with packed weights.

    In bf16 they are packed once in oneDNN's layout, instead of at every product. PyTorch offers this for its own
    compiler (`torch/_inductor/mkldnn_lowerings.py`). With bf16 instructions, a product with 32 rows takes two thirds of
    the time then. Without a C compiler, oneDNN computes these layers.

    Args:
        weight: Shape (out, in), in `dtype` or in bf16.
        bias: Shape (out,).
        dtype: Of the product.
        batch_invariant: Compute each row independently of the others, if the layer `treats_rows_alike`.
    """
    if weight.device.type == "cpu" and dtype == torch.bfloat16 and multiplies_bf16():
        has_operator = hasattr(torch.ops.mkldnn, "_linear_pointwise")
        return PrepackedLinear(weight, bias, batch_invariant) if has_operator else None
    compiled = kernels(weight.new_empty(0, dtype=dtype)) if dtype == torch.float32 else None
    if compiled is None or (bias is not None and bias.dtype != dtype):
        return None
    return CompiledLinear(weight, bias, compiled)


def lora_slots(size_in: int, spans: Sequence[slice], like: torch.Tensor) -> PackedSlots | None:
    """Empty LoRA slots of layers with the same input, which end at the `spans` of their outputs; `like` has their
    dtype.
    """
    compiled = kernels(like)
    return None if compiled is None else PackedSlots(size_in, spans, like, compiled)


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor | None:
    """softmax(scale · Q Kᵀ + mask) V, shape (rows, new, heads, size); a token's result is independent of all other
    tokens.

    Args:
        query: Shape (rows, heads, new, size).
        key, value: Shape (rows, key heads, columns, size).
        mask: Added to the scores, shape (rows, 1, new, columns).
    """
    compiled = kernels(query)
    if compiled is None or not compiled.supports_attention(query, key, value, mask):
        return None
    return compiled.attention(query, key, value, mask, scale)


def sample(logits: torch.Tensor, rows: Sequence[int], settings: Sequence[Sequence[float]]) -> list[int | None] | None:
    """Draw a token for some rows of logits, as `Kernels.sample`."""
    compiled = kernels(logits) if logits.is_contiguous() else None
    return None if compiled is None else compiled.sample(logits, rows, settings)


def log_probabilities(
    logits: torch.Tensor, tokens: Sequence[int], most: int
) -> tuple[list[float], list[list[int]], list[list[float]]] | None:
    """Log-probabilities of one token of each row and of the most likely ones, as `Kernels.log_probabilities`."""
    compiled = kernels(logits) if logits.is_contiguous() else None
    return None if compiled is None else compiled.log_probabilities(logits, tokens, most)
