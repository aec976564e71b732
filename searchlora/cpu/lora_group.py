"""Frozen linear layers with the same input as one matrix product, with the LoRA of each, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class LoraGroup:
    """Linear layers that share their input: q, k and v, or gate and up, or one layer alone.

    With W the weights below each other, y = x Wᵀ + (x Aᵀ) Bᵀ, where A holds the A of all layers below each other, and B
    their scaling · B on its diagonal. A and B are rounded to the dtype of W for the products, as mixed precision does
    on a GPU; the parameters and their gradients keep theirs.

    Args:
        layers: Plain linear layers, or PEFT's LoRA layers around them.
        dtype: Of the products.
        keep_dense: As in `FusedDecoder`.

    Attributes:
        parameters: A and B of the layers that have LoRA, in turn.
        rank: Sum of their ranks.
    """

    def __init__(self, layers: Sequence[Any], dtype: torch.dtype, keep_dense: bool) -> None:
        self._layers = [getattr(layer, "base_layer", layer) for layer in layers]
        self._dtype = dtype
        self.parameters: list[torch.nn.Parameter] = []
        self.size_in = layers[0].in_features
        self.size_out = sum(layer.out_features for layer in layers)
        parts, rank, end = [], 0, 0
        for layer in layers:
            begin, end = end, end + layer.out_features
            if hasattr(layer, "base_layer"):
                (name,) = layer.lora_A
                a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
                parts.append((slice(rank, rank + len(a)), slice(begin, end), float(layer.scaling[name])))
                rank += len(a)
                self.parameters += [a, b]
        self.rank, self._parts = rank, parts
        self._a, self._b = torch.zeros(rank, self.size_in, dtype=dtype), torch.zeros(self.size_out, rank, dtype=dtype)
        biases = [layer.bias for layer in self._layers]
        self._bias = None
        if any(bias is not None for bias in biases):
            self._bias = torch.cat(
                [
                    torch.zeros(layer.out_features, dtype=dtype)
                    if layer.bias is None
                    else layer.bias.detach().to(dtype)
                    for layer in self._layers
                ]
            )
        self._dense: torch.Tensor | None = None
        if not any(map(is_4_bit, self._layers)):
            self._dense = torch.cat([layer.weight.detach() for layer in self._layers])
            begin = 0
            for layer in self._layers:  # one copy in memory
                layer.weight.data = self._dense[begin : begin + layer.out_features]
                begin += layer.out_features
        elif keep_dense:
            self._dense = self._dequantised()

    def _dequantised(self) -> torch.Tensor:
        return torch.cat([_dense_weight(layer, self._dtype) for layer in self._layers])

    def _weight(self) -> torch.Tensor:
        return self._dequantised() if self._dense is None else self._dense

    def round_parameters(self) -> None:
        """Take over the current values of the parameters."""
        for (ranks, columns, scaling), a, b in zip(
            self._parts, self.parameters[::2], self.parameters[1::2], strict=True
        ):
            self._a[ranks].copy_(a.detach())
            torch.mul(b.detach(), scaling, out=self._b[columns, ranks])

    def forward(self, x: torch.Tensor, inner: torch.Tensor, out: torch.Tensor, residual: torch.Tensor | None) -> None:
        """y (n, size_out), plus `residual` if there is one, into `out`; x Aᵀ (n, rank), which the backward pass needs,
        into `inner`.
        """
        weight = self._weight().T
        if residual is not None:
            torch.addmm(residual, x, weight, out=out)
            if self._bias is not None:
                out.add_(self._bias)
        elif self._bias is not None:
            torch.addmm(self._bias, x, weight, out=out)
        else:
            torch.mm(x, weight, out=out)
        if self.rank:
            torch.mm(x, self._a.T, out=inner)
            out.addmm_(inner, self._b.T)

    def inner_gradient(self, gradient: torch.Tensor) -> torch.Tensor:
        """Gradient of x Aᵀ, shape (n, rank). `gradient`: of the result, shape (n, size_out)."""
        return torch.mm(gradient, self._b)

    def input_gradient(self, gradient: torch.Tensor, inner_gradient: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Gradient of x, written to `out`; shape (n, size_in)."""
        torch.mm(gradient, self._weight(), out=out)
        return out.addmm_(inner_gradient, self._a) if self.rank else out

    def gradients(
        self, x: torch.Tensor, inner: torch.Tensor, gradient: torch.Tensor, inner_gradient: torch.Tensor
    ) -> list[torch.Tensor]:
        """Gradients of `parameters`, in their dtype; x and inner as in `forward`."""
        if not self.parameters:
            return []
        of_all_a, of_all_b = torch.mm(inner_gradient.T, x), torch.mm(inner.T, gradient)
        gradients: list[torch.Tensor] = []
        for (ranks, columns, scaling), a, b in zip(
            self._parts, self.parameters[::2], self.parameters[1::2], strict=True
        ):
            of_b = torch.empty(b.shape, dtype=b.dtype).copy_(of_all_b[ranks, columns].T).mul_(scaling)
            gradients += [of_all_a[ranks].to(a.dtype, copy=True), of_b]
        return gradients


def is_4_bit(layer: Any) -> bool:
    return hasattr(layer.weight, "quant_state")


def _dense_weight(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    """The weight that a layer computes with in train mode, shape (out, in)."""
    if not is_4_bit(layer):
        weight: torch.Tensor = layer.weight.detach().to(dtype)
        return weight
    from bitsandbytes.functional import dequantize_4bit

    dense: torch.Tensor = dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(dtype)
    return dense
