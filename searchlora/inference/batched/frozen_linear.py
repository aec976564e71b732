"""Frozen linear layers of a base model: how they compute, and the memory layout of their weights."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from searchlora.models.native import kernels
from searchlora.models.native.bindings import Kernels, LoraItems, LoraTables, pack_frozen


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
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
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
    """A layer of another class (4-bit, GPT-2's Conv1D) that computes as it did."""

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


class BlockedLinear:
    """A batch-invariant linear layer: rows are computed in blocks of fixed sizes, the last one padded.

    A library's matrix product chooses its algorithm, and with it the order of its sums, by the shapes of its operands.
    With fixed shapes a row's result depends on that row only. On a CPU, several blocks are computed in one product
    where that gives the same result to the last bit: 512 rows take half the time of 16 products of 32 in fp32.

    Args:
        linear: The layer that computes a block.
    """

    def __init__(self, linear: FrozenLinear) -> None:
        self._linear = linear

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        size = block_rows(x.device)
        padded = torch.nn.functional.pad(flat, (0, 0, 0, -len(flat) % size)) if len(flat) % size else flat
        if len(padded) <= size or x.device.type != "cpu":
            sizes = [size] * (len(padded) // size)
        else:
            sizes = _in_powers(len(padded), _largest_product(self._linear, x.shape[-1], x.dtype))
        blocks = [self._linear(block) for block in torch.split(padded, sizes)]
        output = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        return output[: len(flat)].view(*x.shape[:-1], -1)

    def dense(self) -> torch.Tensor:
        return self._linear.dense()

    def tensors(self) -> Sequence[torch.Tensor]:
        return self._linear.tensors()


def block_rows(device: torch.device) -> int:
    """Rows of a block of a batch-invariant product: a product with fewer rows hardly costs less."""
    return 32 if device.type == "cpu" else 256


#: Rows of the largest product of several blocks; passes have no more tokens on a CPU.
_MOST_ROWS = 512

#: Numbers that a product of several blocks has at most, so that those of the output layer need little memory.
_MOST_OUTPUTS = 1 << 22

#: Kind of layer, shapes of its weights, dtype and threads -> what `_largest_product` found.
_LARGEST: dict[tuple[object, ...], int] = {}


def _largest_product(linear: FrozenLinear, size_in: int, dtype: torch.dtype) -> int:
    """Rows of the largest product on the CPU whose rows are those of products of one block, to the last bit.

    The order of sums depends on shapes, not on values, so that random rows show whether it is the same.
    """
    shapes = [tensor.shape for tensor in linear.tensors()]
    key = (type(linear), *shapes, dtype, torch.get_num_threads())
    if key not in _LARGEST:
        largest = size = block_rows(torch.device("cpu"))
        x = torch.randn(_MOST_ROWS, size_in, generator=torch.Generator().manual_seed(0)).to(dtype)
        size_out = linear(x[:size]).shape[-1]
        x = x[: max(size, min(_MOST_ROWS, _MOST_OUTPUTS // size_out))]
        blocks = torch.cat([linear(block) for block in torch.split(x, size)])
        while 2 * largest <= len(x) and torch.equal(linear(x[: 2 * largest]), blocks[: 2 * largest]):
            largest *= 2
        _LARGEST[key] = largest
    return _LARGEST[key]


def _in_powers(rows: int, largest: int) -> list[int]:
    """`rows` as a sum of numbers of which each is `largest`, or half of one before."""
    sizes = [largest] * (rows // largest)
    rest = rows % largest
    while rest:
        largest //= 2
        if rest >= largest:
            sizes.append(largest)
            rest -= largest
    return sizes


def frozen_linear(
    weight: torch.Tensor, bias: torch.Tensor | None, prepack: bool, batch_invariant: bool = False
) -> FrozenLinear:
    """A frozen layer with a weight of shape (out, in)."""
    if prepack:
        prepacked = PrepackedLinear(weight, bias, batch_invariant)
        return BlockedLinear(prepacked) if batch_invariant and not prepacked.has_kernel else prepacked
    return BlockedLinear(PlainLinear(weight, bias)) if batch_invariant else PlainLinear(weight, bias)


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
    if not all(type(layer) is torch.nn.Linear for layer in layers):
        wrapped = WrappedLinear(layers[0])
        return BlockedLinear(wrapped) if batch_invariant else wrapped
    weights = [layer.weight.detach() for layer in layers]
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
