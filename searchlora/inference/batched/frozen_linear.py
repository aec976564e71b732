"""The frozen linear layers of a base: how they compute, and how their weights are laid out."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from searchlora.inference.batched.native import kernels
from searchlora.inference.batched.native.bindings import Items, Kernels, Layers, lying


class Linear(Protocol):
    """What a frozen linear layer, or several side by side, computes."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""

    def dense(self) -> torch.Tensor:
        """The weight that is computed with; shape (out, in)."""

    def held(self) -> Sequence[torch.Tensor]:
        """What is read at every product."""


def packing(model: torch.nn.Module) -> bool:
    """Whether weights can be laid out once as oneDNN's kernels want them, instead of at every product.

    PyTorch offers that for its own compiler (`torch/_inductor/mkldnn_lowerings.py`). On a CPU with bf16 instructions a
    product with 32 rows takes two thirds of the time then (`benchmarks/multi_adapter`).
    """
    first = next(model.parameters())
    return (
        first.device.type == "cpu"
        and first.dtype == torch.bfloat16
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


@dataclass(frozen=True)
class Plain:
    """As `torch.nn.Linear`."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight, self.bias)

    def dense(self) -> torch.Tensor:
        return self.weight

    def held(self) -> Sequence[torch.Tensor]:
        return (self.weight,)


class Packed:
    """The same with the weight laid out for the CPU; see `packing`.

    Few rows cost what it takes to read the weight, and our kernel reads it faster than oneDNN's. How oneDNN lays it out
    is its own affair and may be another way tomorrow, so it is looked at first.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self._product = torch.ops.mkldnn._linear_pointwise.default
        self._bias = bias
        self._size_out = len(weight)
        of_kind = bias is None or bias.dtype == weight.dtype
        self._compiled = _reading(weight, self._packed) if of_kind else None
        self._most = 0 if self._compiled is None else self._compiled.few * weight.shape[1]  # numbers of x
        self._place: int = torch.ops.mkldnn.data_ptr(self._packed)

    def is_few(self, x: torch.Tensor) -> bool:
        """Whether our kernel computes it."""
        return x.numel() <= self._most and x.dtype == torch.bfloat16

    def adds(self, x: torch.Tensor) -> bool:
        """Whether it can add what adapters do as well."""
        return self._compiled is not None and self._compiled.adds and self.is_few(x)

    def few(self, x: torch.Tensor, worn: tuple[Layers, Items] | None = None) -> torch.Tensor:
        """What our kernel computes, and what adapters add; see `Kernels.linear`."""
        assert self._compiled is not None
        return self._compiled.linear(x, self._place, self._bias, self._size_out, worn)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.is_few(x):
            return self.few(x)
        found: torch.Tensor = self._product(x, self._packed, self._bias, "none", [], "")
        return found

    def dense(self) -> torch.Tensor:
        dense: torch.Tensor = self._packed.to_dense()
        return dense

    def held(self) -> Sequence[torch.Tensor]:
        return (self._packed,)


def _reading(weight: torch.Tensor, packed: torch.Tensor) -> Kernels | None:
    """What reads a weight as oneDNN laid it out; None where nothing of ours can."""
    compiled, size = kernels(weight), torch.ops.mkldnn._nbytes(packed)
    wanted = lying(weight, compiled.wide) if compiled is not None and compiled.few else None
    if wanted is None or size != weight.nbytes:
        return None
    memory = (ctypes.c_char * size).from_address(torch.ops.mkldnn.data_ptr(packed))
    found = torch.frombuffer(memory, dtype=torch.int16).view(wanted.shape)
    return compiled if torch.equal(found, wanted.view(torch.int16)) else None


@dataclass(frozen=True)
class Kept:
    """A layer of another kind (4-bit, GPT-2's) computes as it did."""

    layer: Any

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x)
        return found

    def dense(self) -> torch.Tensor:
        # Not from the layer's own weight: bitsandbytes lays 4-bit weights out anew in their first forward pass on a
        # CPU, and what it then makes of them itself is another matrix.
        _, size_in = shape_of(self.layer)
        parameter = next(iter(self.layer.parameters()))
        dtype = parameter.dtype if parameter.is_floating_point() else torch.bfloat16
        with torch.inference_mode():
            columns: torch.Tensor = self.layer(torch.eye(size_in, dtype=dtype, device=parameter.device)).T.float()
            return columns if self.layer.bias is None else columns - self.layer.bias.float()[:, None]

    def held(self) -> Sequence[torch.Tensor]:
        return tuple(self.layer.parameters())


def linear(weight: torch.Tensor, bias: torch.Tensor | None, packed: bool) -> Linear:
    """A frozen layer of a weight (out, in)."""
    return Packed(weight, bias) if packed else Plain(weight, bias)


def is_linear(layer: torch.nn.Module) -> bool:
    """Whether an adapter may change it."""
    if isinstance(layer, torch.nn.Linear):  # bitsandbytes' 4-bit layers among them
        return True
    return type(layer).__name__ == "Conv1D"  # GPT-2's, whose weight is (in, out)


def shape_of(layer: Any) -> tuple[int, int]:
    """(out, in) of a linear layer."""
    if isinstance(layer, torch.nn.Linear):
        return layer.out_features, layer.in_features
    return layer.nf, layer.nx


def side_by_side(layers: Sequence[Any], packed: bool) -> Linear:
    """Layers of the same input as one; a layer of another kind than torch's own stands alone."""
    if not all(type(layer) is torch.nn.Linear for layer in layers):
        return Kept(layers[0])
    weights = [layer.weight.detach() for layer in layers]
    return linear(weights[0] if len(weights) == 1 else torch.cat(weights), bias_of(layers), packed)


def bias_of(layers: Sequence[Any]) -> torch.Tensor | None:
    """Of layers side by side, shape (out,); None where none has one."""
    given = [layer.bias.detach() for layer in layers if layer.bias is not None]
    if not given:
        return None
    return torch.cat(
        [given[0].new_zeros(shape_of(each)[0]) if each.bias is None else each.bias.detach() for each in layers]
    )
