"""Frozen linear layers of a base model, computed by PyTorch or by the CPU backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from searchlora.cpu import backend
from searchlora.inference.batched.invariance import in_blocks


class FrozenLinear(Protocol):
    """One frozen linear layer, or several with the same input concatenated along their outputs."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""

    def tensors(self) -> Sequence[torch.Tensor]:
        """What is read at every product."""


@dataclass(frozen=True)
class PlainLinear:
    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight, self.bias)

    def tensors(self) -> Sequence[torch.Tensor]:
        return (self.weight,)


@dataclass(frozen=True)
class WrappedLinear:
    """A layer of another class, such as a 4-bit one, that computes as it did."""

    layer: Any

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = self.layer(x)
        return product

    def tensors(self) -> Sequence[torch.Tensor]:
        return tuple(self.layer.parameters())


class DequantizedLinear(WrappedLinear):
    """A batch-invariant 4-bit layer: its weight is dequantised for each product.

    For layers whose weights bitsandbytes has not packed for its own kernel: it would use PyTorch's product.
    """

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return blocked_linear(
            self.dense().to(x.dtype), None if self.layer.bias is None else self.layer.bias.to(x.dtype)
        )(x)

    def dense(self) -> torch.Tensor:
        from bitsandbytes.functional import dequantize_4bit

        weight: torch.Tensor = dequantize_4bit(self.layer.weight.data, self.layer.weight.quant_state)
        return weight

    @staticmethod
    def fits(layer: Any) -> bool:
        """Whether it computes what the layer does."""
        state = getattr(getattr(layer, "weight", None), "quant_state", None)
        return state is not None and not getattr(state, "packing_format_for_cpu", False)


class OneDnnLinear(PlainLinear):
    """A layer that oneDNN computes, whose kernels treat all rows alike.

    The product of PyTorch is MKL's, which computes the last rows of a block in another order with AVX2 instructions.
    """

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(x, self.weight, self.bias, "none", [], "")
        return product


class BlockedLinear:
    """A batch-invariant linear layer, computed `in_blocks` of rows, by default so many that a product with fewer hardly
    costs less.
    """

    def __init__(self, linear: FrozenLinear, rows: int = 32) -> None:
        self._linear, self._rows = linear, rows

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return in_blocks(self._linear, x.reshape(-1, x.shape[-1]), self._rows).view(*x.shape[:-1], -1)

    def tensors(self) -> Sequence[torch.Tensor]:
        return self._linear.tensors()


def blocked_linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> BlockedLinear:
    """A batch-invariant layer that PyTorch computes, with a weight of shape (out, in)."""
    if weight.dtype != torch.float32:
        return BlockedLinear(PlainLinear(weight, bias))
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return BlockedLinear(OneDnnLinear(weight, bias))
    return BlockedLinear(PlainLinear(weight, bias), rows=1)  # a build without oneDNN: its BLAS is unknown


def frozen_linear(
    weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype, batch_invariant: bool = False
) -> FrozenLinear:
    """A layer that computes in `dtype`; its weight may be held in another one."""
    bias = None if bias is None else bias.to(dtype)
    packed = backend.frozen_linear(weight, bias, dtype, batch_invariant)
    if packed is not None:
        return BlockedLinear(packed) if batch_invariant and not packed.treats_rows_alike else packed
    weight = weight.to(dtype)
    return blocked_linear(weight, bias) if batch_invariant else PlainLinear(weight, bias)


def is_linear(layer: torch.nn.Module) -> bool:
    """Whether an adapter may change the layer."""
    if isinstance(layer, torch.nn.Linear):  # including bitsandbytes' 4-bit layers
        return True
    return type(layer).__name__ == "Conv1D"  # GPT-2's, whose weight is (in, out)


def shape_of(layer: Any) -> tuple[int, int]:
    if isinstance(layer, torch.nn.Linear):
        return layer.out_features, layer.in_features
    return layer.nf, layer.nx


def merged_linear(layers: Sequence[Any], dtype: torch.dtype, batch_invariant: bool = False) -> FrozenLinear:
    """Layers with the same input as one product in `dtype`; one of another class than torch's own must come alone."""
    if type(layers[0]).__name__ == "Conv1D":
        weights = [layers[0].weight.detach().T.contiguous()]
    elif all(type(layer) is torch.nn.Linear for layer in layers):
        weights = [layer.weight.detach() for layer in layers]
    elif batch_invariant:
        layer = layers[0]
        return DequantizedLinear(layer) if DequantizedLinear.fits(layer) else BlockedLinear(WrappedLinear(layer))
    else:
        return WrappedLinear(layers[0])
    weight = weights[0] if len(weights) == 1 else torch.cat(weights)
    return frozen_linear(weight, merged_bias(layers), dtype, batch_invariant)


def release_originals(layers: Sequence[Any], merged: FrozenLinear) -> None:
    """Give back the memory of layers that nothing but `merged` replaces from now on, as far as it holds a copy."""
    held = {tensor.data_ptr() for tensor in merged.tensors() if not tensor.is_mkldnn}
    backend.release_files(layer.weight for layer in layers if layer.weight.data_ptr() not in held)


def merged_bias(layers: Sequence[Any]) -> torch.Tensor | None:
    """The biases of merged layers, shape (out,); None if none has one."""
    biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
    if not biases:
        return None
    return torch.cat(
        [biases[0].new_zeros(shape_of(layer)[0]) if layer.bias is None else layer.bias.detach() for layer in layers]
    )
