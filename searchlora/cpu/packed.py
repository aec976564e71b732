"""Frozen weights and LoRA slots in the layouts of the compiled kernels."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch

from searchlora.cpu.bindings import DEPTH, Kernels, LoraItems, LoraTables, PackedWeight, pack, pack_frozen
from searchlora.cpu.kernels import kernels


class PrepackedLinear:
    """A linear layer in bf16 whose weight is packed for the CPU.

    Products with few rows are bound by reading the weight, which the compiled kernel does faster than oneDNN. oneDNN
    does not document its layout, so the packed weight is compared with the layout that the kernel expects.

    With `batch_invariant`, the kernel computes any number of rows, so that a row's result does not depend on their
    number.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, batch_invariant: bool = False) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self._product = torch.ops.mkldnn._linear_pointwise.default
        self._bias = bias
        self._size_out = len(weight)
        same_dtype = bias is None or bias.dtype == weight.dtype
        self._compiled = _kernels_for(weight, self._packed) if same_dtype else None
        max_rows = 0 if self._compiled is None else math.inf if batch_invariant else self._compiled.max_rows
        self._max_numel = max_rows * weight.shape[1] if max_rows else 0  # of x
        self._address: int = torch.ops.mkldnn.data_ptr(self._packed)

    @property
    def treats_rows_alike(self) -> bool:
        """Whether a row's result never depends on the other rows: the compiled kernel can read the weight."""
        return self._compiled is not None

    def uses_kernel(self, x: torch.Tensor) -> bool:
        return x.numel() <= self._max_numel and x.dtype == torch.bfloat16

    def can_add_lora(self, x: torch.Tensor) -> bool:
        """Whether `run_kernel` adds LoRA: with tile registers to any number of rows, as a second pass takes longer."""
        if self._compiled is None or x.dtype != torch.bfloat16:
            return False
        return self._compiled.uses_amx or self.uses_kernel(x)

    def run_kernel(self, x: torch.Tensor, lora: tuple[LoraTables, LoraItems] | None = None) -> torch.Tensor:
        assert self._compiled is not None
        return self._compiled.linear(x, self._address, self._bias, self._size_out, lora)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.uses_kernel(x):
            return self.run_kernel(x)
        product: torch.Tensor = self._product(x, self._packed, self._bias, "none", [], "")
        return product

    def tensors(self) -> Sequence[torch.Tensor]:
        return (self._packed,)


def _kernels_for(weight: torch.Tensor, packed: torch.Tensor) -> Kernels | None:
    """The kernels that can read a weight as oneDNN packed it; None if there are none."""
    compiled, size = kernels(weight), torch.ops.mkldnn._nbytes(packed)
    expected = pack_frozen(weight, compiled.panel) if compiled is not None and compiled.max_rows else None
    if expected is None or size != weight.nbytes:
        return None
    memory = (ctypes.c_char * size).from_address(torch.ops.mkldnn.data_ptr(packed))
    actual = torch.frombuffer(memory, dtype=torch.int16).view(expected.shape)
    return compiled if torch.equal(actual, expected.view(torch.int16)) else None


class CompiledLinear:
    """A linear layer in fp32 that the compiled kernel computes (`linear_fp32.c`).

    A row's result does not depend on the other rows. Weights that are bf16 numbers are stored as such: the products are
    the same, and few rows, which are bound by reading the weight, take half the time.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, compiled: Kernels) -> None:
        self._weight = PackedWeight(weight, torch.bfloat16 if _are_bf16(weight) else torch.float32)
        self._bias, self._compiled = bias, compiled

    treats_rows_alike = True

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._compiled.linear_fp32(x, self._weight, self._bias)

    def dense(self) -> torch.Tensor:
        return self._weight.dense().float()

    def tensors(self) -> Sequence[torch.Tensor]:
        return (self._weight.blocks,)


def _are_bf16(weight: torch.Tensor) -> bool:
    """Whether all numbers are bf16 numbers; some rows at a time, as a copy of an output layer is large."""
    if weight.dtype == torch.bfloat16:
        return True
    return all(torch.equal(rows.bfloat16().float(), rows) for rows in torch.split(weight, 1024))


def padded_rank(rank: int) -> int:
    """The rank that a slot is stored with: a multiple of 2, and of 32 above 32.

    Examples:
        >>> [padded_rank(rank) for rank in (1, 8, 9, 33, 64)]
        [2, 8, 10, 64, 64]
    """
    step = 2 if rank <= DEPTH else DEPTH
    return -(-rank // step) * step


class PackedSlots:
    """LoRA slots for the compiled kernels, which read A and B sequentially in blocks of columns.

    Weights are `lora_layers.LoraWeights`, and mappings `LoraMapping`.
    """

    def __init__(self, size_in: int, spans: Sequence[slice], like: torch.Tensor, compiled: Kernels) -> None:
        self._kernels, self._size_in, self._spans, self._like = compiled, size_in, spans, like
        self._tables = LoraTables(torch.tensor([span.stop for span in spans]), size_in)

    def pack(self, weights: Sequence[Any | None]) -> tuple[torch.Tensor, torch.Tensor] | None:
        rank = padded_rank(max((len(change.a) for change in weights if change is not None), default=0))
        if not rank:
            return None
        a = self._like.new_zeros(len(self._spans), rank, self._size_in)
        packed_b = []
        for layer, (span, change) in enumerate(zip(self._spans, weights, strict=True)):
            b = self._like.new_zeros(span.stop - span.start, rank)
            if change is not None:
                a[layer, : len(change.a)] = change.a
                b[:, : change.b.shape[1]] = change.b
            if not b.isfinite().all():
                # A tile has rows of other adapters, whose zeros times NaN would be NaN: A carries it, in its own rows.
                a[layer] = torch.nan
                b.nan_to_num_(0, 0, 0)
            packed_b.append(pack(b))
        # The kernel with tile registers reads whole tiles of B, beyond the last block if the rank is small.
        rest = self._like.new_zeros(-(-DEPTH // rank), *packed_b[0].shape[-3:])
        return pack(a.flatten(0, 1)), torch.cat([*packed_b, rest])[: -len(rest)]

    def put(self, slot: int, packed: tuple[torch.Tensor, torch.Tensor] | None) -> None:
        self._tables.clear(slot)
        self._tables.cover(slot)
        if packed is not None:
            self._tables.put(slot, *packed)

    def clear(self, slot: int) -> None:
        self._tables.clear(slot)

    def add(self, x: torch.Tensor, y: torch.Tensor, mapping: Any) -> torch.Tensor:
        dtype = self._like.dtype
        if x.dtype != dtype or y.dtype != dtype:
            return self.add(x.to(dtype), y.to(dtype), mapping).to(y.dtype)
        y = y.contiguous()
        self._kernels.lora(x.contiguous(), y, self._tables, _items(mapping, x.shape[1]))
        return y

    def apply(self, base: Any, x: torch.Tensor, mapping: Any) -> torch.Tensor:
        if isinstance(base, PrepackedLinear) and self._tables.is_aligned and base.can_add_lora(x):
            return base.run_kernel(x, (self._tables, _items(mapping, x.shape[1])))
        y: torch.Tensor = base(x)
        return self.add(x, y, mapping)

    def tensors(self) -> Sequence[torch.Tensor]:
        return [tensor for pair in self._tables.weights.values() for tensor in pair]


def _items(mapping: Any, tokens: int) -> LoraItems:
    if tokens not in mapping.derived:
        mapping.derived[tokens] = LoraItems(mapping.adapter_rows, tokens)
    items: LoraItems = mapping.derived[tokens]
    return items
