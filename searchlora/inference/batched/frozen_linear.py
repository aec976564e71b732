"""Frozen linear layers of a base model: how they compute, and the memory layout of their weights."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from searchlora.models.load import multiplies_bf16
from searchlora.models.native import kernels
from searchlora.models.native.bindings import Kernels, LoraItems, LoraTables, PackedWeight, pack_frozen


class FrozenLinear(Protocol):
    """One frozen linear layer, or several with the same input concatenated along their outputs."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""

    def dense(self) -> torch.Tensor:
        """The weight that is computed with; shape (out, in)."""

    def tensors(self) -> Sequence[torch.Tensor]:
        """What is read at every product."""


def can_prepack(model: torch.nn.Module) -> bool:
    """Whether weights can be packed once in oneDNN's layout, instead of at every product.

    PyTorch offers this for its own compiler (`torch/_inductor/mkldnn_lowerings.py`). On a CPU with bf16 instructions a
    product with 32 rows takes two thirds of the time then (`benchmarks/multi_adapter`).
    """
    first = next(model.parameters())
    return (
        first.device.type == "cpu"
        and first.dtype == torch.bfloat16
        and multiplies_bf16()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


@dataclass(frozen=True)
class PlainLinear:
    """As `torch.nn.Linear`."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight, self.bias)

    def dense(self) -> torch.Tensor:
        return self.weight

    def tensors(self) -> Sequence[torch.Tensor]:
        return (self.weight,)


class PrepackedLinear:
    """A linear layer whose weight is packed for the CPU; see `can_prepack`.

    Products with few rows are bound by reading the weight, which the compiled kernel does faster than oneDNN. oneDNN
    does not document its layout, so the packed weight is compared with the layout that the kernel expects.

    Args:
        weight: Shape (out, in), bf16.
        bias: Shape (out,).
        batch_invariant: Use the kernel for any number of rows, so that a row's result does not depend on their number.
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
    def has_kernel(self) -> bool:
        """Whether the compiled kernel can read the weight."""
        return self._compiled is not None

    def uses_kernel(self, x: torch.Tensor) -> bool:
        """Whether the compiled kernel computes this input."""
        return x.numel() <= self._max_numel and x.dtype == torch.bfloat16

    def can_add_lora(self, x: torch.Tensor) -> bool:
        """Whether the kernel can add the rows' adapters in the same product."""
        return self._compiled is not None and self._compiled.fuses_lora and self.uses_kernel(x)

    def run_kernel(self, x: torch.Tensor, lora: tuple[LoraTables, LoraItems] | None = None) -> torch.Tensor:
        """The product by the compiled kernel, with the rows' adapters added; see `Kernels.linear`."""
        assert self._compiled is not None
        return self._compiled.linear(x, self._address, self._bias, self._size_out, lora)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.uses_kernel(x):
            return self.run_kernel(x)
        product: torch.Tensor = self._product(x, self._packed, self._bias, "none", [], "")
        return product

    def dense(self) -> torch.Tensor:
        dense: torch.Tensor = self._packed.to_dense()
        return dense

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


@dataclass(frozen=True)
class WrappedLinear:
    """A layer of another class, such as a 4-bit one, that computes as it did."""

    layer: Any

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = self.layer(x)
        return product

    def dense(self) -> torch.Tensor:
        # Not from the layer's own weight: bitsandbytes repacks 4-bit weights in their first forward pass on a CPU, and
        # its own dequantisation of the repacked weight is another matrix.
        _, size_in = shape_of(self.layer)
        parameter = next(iter(self.layer.parameters()))
        dtype = parameter.dtype if parameter.is_floating_point() else torch.bfloat16
        with torch.inference_mode():
            columns: torch.Tensor = self.layer(torch.eye(size_in, dtype=dtype, device=parameter.device)).T.float()
            return columns if self.layer.bias is None else columns - self.layer.bias.float()[:, None]

    def tensors(self) -> Sequence[torch.Tensor]:
        return tuple(self.layer.parameters())


class CompiledLinear:
    """A linear layer in fp32 that the compiled kernel computes; see `linear_fp32.c`.

    A row's result does not depend on the other rows. Weights that are bf16 numbers are stored as such: the products are
    the same, and few rows, which are bound by reading the weight, take half the time.

    Args:
        weight: Shape (out, in), fp32.
        bias: Shape (out,), fp32.
        compiled: The kernels for fp32.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, compiled: Kernels) -> None:
        halves = weight.bfloat16()
        self._weight = PackedWeight(halves if torch.equal(halves.float(), weight) else weight)
        self._bias, self._compiled = bias, compiled

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._compiled.linear_fp32(x, self._weight, self._bias)

    def dense(self) -> torch.Tensor:
        return self._weight.dense().float()

    def tensors(self) -> Sequence[torch.Tensor]:
        return (self._weight.blocks,)


class DequantizedLinear(WrappedLinear):
    """A batch-invariant 4-bit layer on the CPU: its weight is dequantised for each product.

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
        on_cpu = state is not None and layer.weight.device.type == "cpu"
        return on_cpu and not getattr(state, "packing_format_for_cpu", False)


class OneDnnLinear(PlainLinear):
    """A layer on the CPU that oneDNN computes, whose kernels treat all rows alike.

    The product of PyTorch is MKL's, which computes the last rows of a block in another order with AVX2 instructions.
    """

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(x, self.weight, self.bias, "none", [], "")
        return product


class BlockedLinear:
    """A batch-invariant linear layer: rows are computed in blocks of one size, the last one padded.

    A library's matrix product chooses its algorithm, and with it the order of its sums, by the shapes of its operands.
    With one shape, and if the algorithm treats all rows of a block alike, a row's result depends on that row only.

    Args:
        linear: The layer that computes a block.
        rows: Rows of a block; None: so many that a product with fewer hardly costs less.
    """

    def __init__(self, linear: FrozenLinear, rows: int | None = None) -> None:
        self._linear, self._rows = linear, rows

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        size = self._rows or (_CPU_ROWS if x.device.type == "cpu" else _GPU_ROWS)
        padded = torch.nn.functional.pad(flat, (0, 0, 0, -len(flat) % size)) if len(flat) % size else flat
        blocks = [self._linear(block) for block in torch.split(padded, size)]
        output = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        return output[: len(flat)].view(*x.shape[:-1], -1)

    def dense(self) -> torch.Tensor:
        return self._linear.dense()

    def tensors(self) -> Sequence[torch.Tensor]:
        return self._linear.tensors()


#: Rows of a block of a `BlockedLinear`.
_CPU_ROWS, _GPU_ROWS = 32, 256


def blocked_linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> BlockedLinear:
    """A batch-invariant layer that PyTorch computes, with a weight of shape (out, in)."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return BlockedLinear(PlainLinear(weight, bias))
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return BlockedLinear(OneDnnLinear(weight, bias))
    return BlockedLinear(PlainLinear(weight, bias), rows=1)  # a build without oneDNN: its BLAS is unknown


def frozen_linear(
    weight: torch.Tensor, bias: torch.Tensor | None, prepack: bool, batch_invariant: bool = False
) -> FrozenLinear:
    """A frozen layer with a weight of shape (out, in)."""
    if prepack:
        prepacked = PrepackedLinear(weight, bias, batch_invariant)
        return BlockedLinear(prepacked) if batch_invariant and not prepacked.has_kernel else prepacked
    compiled = kernels(weight) if weight.dtype == torch.float32 else None
    if compiled is not None and (bias is None or bias.dtype == weight.dtype):
        return CompiledLinear(weight, bias, compiled)
    return blocked_linear(weight, bias) if batch_invariant else PlainLinear(weight, bias)


def is_linear(layer: torch.nn.Module) -> bool:
    """Whether an adapter may change the layer."""
    if isinstance(layer, torch.nn.Linear):  # including bitsandbytes' 4-bit layers
        return True
    return type(layer).__name__ == "Conv1D"  # GPT-2's, whose weight is (in, out)


def shape_of(layer: Any) -> tuple[int, int]:
    """(out, in) of a linear layer."""
    if isinstance(layer, torch.nn.Linear):
        return layer.out_features, layer.in_features
    return layer.nf, layer.nx


def merged_linear(layers: Sequence[Any], prepack: bool, batch_invariant: bool = False) -> FrozenLinear:
    """Layers with the same input as one product; a layer of another class than torch's own must come alone."""
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
    return frozen_linear(weight, merged_bias(layers), prepack, batch_invariant)


def merged_bias(layers: Sequence[Any]) -> torch.Tensor | None:
    """The biases of merged layers, shape (out,); None if none has one."""
    biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
    if not biases:
        return None
    return torch.cat(
        [biases[0].new_zeros(shape_of(each)[0]) if each.bias is None else each.bias.detach() for each in layers]
    )
