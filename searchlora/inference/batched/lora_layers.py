"""Linear layers of a base model with LoRA slots: each row of a batch uses its own A and B.

Layers with the same input (query, key and value; gate and up) are merged into one product, and so are their A. A and B
are applied as `lora_mapping` says, for all adapters of the batch in one batched product, as in Punica
(arXiv:2310.18547) and S-LoRA (arXiv:2311.03285), whose kernels are for GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Protocol

import torch

from searchlora.inference.batched.frozen_linear import (
    BlockedLinear,
    FrozenLinear,
    PlainLinear,
    PrepackedLinear,
    can_prepack,
    is_linear,
    merged_bias,
    merged_linear,
    shape_of,
)
from searchlora.inference.batched.lora_mapping import LoraMapping
from searchlora.inference.batched.native import kernels
from searchlora.inference.batched.native.bindings import COLUMNS, DEPTH, Kernels, LoraTables, pack, unpack
from searchlora.inference.batched.native.huge_pages import use_huge_pages

#: Names of layers that get the same input in a transformer block.
_MERGED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@dataclass(frozen=True)
class LoraWeights:
    """The weights of an adapter for one linear layer.

    Attributes:
        a: Shape (rank, in).
        b: Shape (out, rank), scaling included.
        factor: Factor of the layer's outputs, shape (out,), for DoRA (arXiv:2402.09353); None for plain LoRA.
    """

    a: torch.Tensor
    b: torch.Tensor
    factor: torch.Tensor | None = None


class SlotWeights(Protocol):
    """A and B of all slots for layers with the same input."""

    def reserve(self, slots: int, rank: int) -> None:
        """Make room for slots of a rank; what is in them stays. If memory runs out, everything is as before."""

    def put(self, slot: int, weights: Sequence[LoraWeights | None]) -> None:
        """Write an adapter's weights for each layer into a slot, None for a layer that it does not change."""

    def add(self, x: torch.Tensor, y: torch.Tensor, mapping: LoraMapping) -> torch.Tensor:
        """y (rows, tokens, out) plus B·A·x of each row's adapter, x (rows, tokens, in); y may be changed in place."""

    def apply(self, base: FrozenLinear, x: torch.Tensor, mapping: LoraMapping) -> torch.Tensor:
        """The base layer's output for x plus B·A·x of each row's adapter; shape (rows, tokens, out)."""

    def tensors(self) -> Sequence[torch.Tensor]:
        """A and B."""


def empty_slots(size_in: int, spans: Sequence[slice], like: torch.Tensor, batch_invariant: bool = False) -> SlotWeights:
    """No slots yet.

    Args:
        size_in: Input size of the layers.
        spans: Output columns of each layer.
        like: A tensor with the dtype and device of A and B.
        batch_invariant: Compute each row independently of the others; the compiled kernels always do.
    """
    compiled = kernels(like)
    if compiled is not None:
        return PackedSlots(size_in, spans, like, compiled)
    return (BlockedSlots if batch_invariant else TorchSlots)(size_in, spans, like)


class TorchSlots:
    """For PyTorch's batched product: A of the layers concatenated, B block-diagonal, so that each is one product."""

    def __init__(self, size_in: int, spans: Sequence[slice], like: torch.Tensor) -> None:
        self._spans = spans
        self._a = like.new_zeros(0, size_in, len(spans), 0)  # (slots, in, layers, rank)
        self._b = like.new_zeros(0, spans[-1].stop, len(spans), 0)  # (slots, out, layers, rank)

    def reserve(self, slots: int, rank: int) -> None:
        a = _grown(self._a, (slots, *self._a.shape[1:3], rank))
        self._a, self._b = a, _grown(self._b, (slots, *self._b.shape[1:3], rank))

    def put(self, slot: int, weights: Sequence[LoraWeights | None]) -> None:
        self._a[slot], self._b[slot] = 0, 0
        for layer, (span, each) in enumerate(zip(self._spans, weights, strict=True)):
            if each is not None:
                self._a[slot, :, layer, : len(each.a)] = each.a.T
                self._b[slot, span, layer, : len(each.a)] = each.b

    def add(self, x: torch.Tensor, y: torch.Tensor, mapping: LoraMapping) -> torch.Tensor:
        inner = torch.bmm(mapping.to_segments(x), mapping.select(self._a).flatten(2))
        return mapping.add_product(y, inner, mapping.select(self._b).flatten(2).transpose(1, 2))

    def apply(self, base: FrozenLinear, x: torch.Tensor, mapping: LoraMapping) -> torch.Tensor:
        return self.add(x, base(x), mapping)

    def tensors(self) -> Sequence[torch.Tensor]:
        return (self._a, self._b)


class BlockedSlots(TorchSlots):
    """The batch-invariant variant for PyTorch: per adapter, in blocks of rows of one fixed size."""

    def add(self, x: torch.Tensor, y: torch.Tensor, mapping: LoraMapping) -> torch.Tensor:
        for slot, rows in mapping.adapter_rows:
            index = torch.tensor(rows, device=x.device)
            flat = x.index_select(0, index).flatten(0, 1)
            inner = BlockedLinear(PlainLinear(self._a[slot].flatten(1).T.contiguous(), None))(flat)
            product = BlockedLinear(PlainLinear(self._b[slot].flatten(1), None))(inner)
            y.index_add_(0, index, product.view(len(rows), *y.shape[1:]))
        return y


class PackedSlots:
    """For the compiled kernels, which read A and B sequentially in blocks of columns."""

    def __init__(self, size_in: int, spans: Sequence[slice], like: torch.Tensor, compiled: Kernels) -> None:
        self._kernels, self._layers, self._size_in = compiled, len(spans), size_in
        self._ends = torch.tensor([span.stop for span in spans])
        counts = [-(-(span.stop - span.start) // COLUMNS) for span in spans]
        self._blocks = [slice(end - count, end) for count, end in zip(counts, accumulate(counts), strict=True)]
        self._rank = 0
        self._a = pack(like.new_zeros(0, 0, size_in))  # of (slots, layers * rank, in)
        self._b = pack(like.new_zeros(0, COLUMNS * sum(counts), 0))  # of (slots, out, rank), each layer padded
        self._tables = LoraTables(self._a, self._b, self._ends, size_in)

    def reserve(self, slots: int, rank: int) -> None:
        step = 2 if rank <= DEPTH else DEPTH  # the kernels' granularity
        rank = max(self._rank, -(-rank // step) * step)
        if rank == self._rank:
            a, b = _grown(self._a, (slots, *self._a.shape[1:])), _grown(self._b, (slots, *self._b.shape[1:]))
        else:
            before = unpack(self._a)[:, : self._layers * self._rank]
            before = before.reshape(len(before), self._layers, self._rank, before.shape[2])
            a = pack(_grown(before, (slots, self._layers, rank, before.shape[3])).flatten(1, 2))
            b = pack(_grown(unpack(self._b), (slots, COLUMNS * self._b.shape[1], rank)))
        self._a, self._b, self._rank = a, b, rank
        self._tables = LoraTables(a, b, self._ends, self._size_in)

    def put(self, slot: int, weights: Sequence[LoraWeights | None]) -> None:
        a = self._a.new_zeros(self._layers, self._rank, self._a.shape[2] * self._a.shape[4])
        self._b[slot] = 0
        for layer, (blocks, each) in enumerate(zip(self._blocks, weights, strict=True)):
            if each is not None:
                a[layer, : each.a.shape[0], : each.a.shape[1]] = each.a
                b = self._b.new_zeros(each.b.shape[0], self._rank)
                b[:, : each.b.shape[1]] = each.b
                self._b[slot, blocks] = pack(b)
        self._a[slot] = pack(a.flatten(0, 1))

    def add(self, x: torch.Tensor, y: torch.Tensor, mapping: LoraMapping) -> torch.Tensor:
        if x.dtype != self._a.dtype or y.dtype != self._a.dtype:
            return self.add(x.to(self._a.dtype), y.to(self._a.dtype), mapping).to(y.dtype)
        y = y.contiguous()
        self._kernels.lora(x.contiguous(), y, self._tables, mapping.items(x.shape[1]))
        return y

    def apply(self, base: FrozenLinear, x: torch.Tensor, mapping: LoraMapping) -> torch.Tensor:
        if isinstance(base, PrepackedLinear) and self._tables.is_aligned and base.can_add_lora(x):
            return base.run_kernel(x, (self._tables, mapping.items(x.shape[1])))
        return self.add(x, base(x), mapping)

    def tensors(self) -> Sequence[torch.Tensor]:
        return (self._a, self._b)


def _grown(old: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The old tensor in one of at least this shape, zeros elsewhere; never smaller than before.

    If memory runs out between the layers of a model, some have more room than others; that is harmless.
    """
    new = old.new_zeros(*map(max, shape, old.shape))
    new[tuple(slice(size) for size in old.shape)] = old
    return new


@dataclass
class ActiveMapping:
    """The mapping of the current forward pass; None if all rows use the bare base model."""

    mapping: LoraMapping | None = None


class LoraLayerGroup:
    """Linear layers with the same input.

    Args:
        layers: Module path of each layer -> the layer.
        active: Shared by all groups of a model.
        prepack: Whether to pack frozen weights for the CPU, see `frozen_linear.can_prepack`.
        like: A tensor with the dtype and device of A and B.
        batch_invariant: Compute each row independently of the others, to the last bit.

    Attributes:
        paths: Module paths of the layers.
        size_in: Input size.
        spans: Output columns of each layer.
        base: The frozen product of all layers.
        slots: A and B of the adapters.
    """

    def __init__(
        self,
        layers: Mapping[str, torch.nn.Module],
        active: ActiveMapping,
        prepack: bool,
        like: torch.Tensor,
        batch_invariant: bool = False,
    ) -> None:
        self.paths = tuple(layers)
        self._active = active
        shapes = [shape_of(layer) for layer in layers.values()]
        self.size_in = shapes[0][1]
        ends = [0, *accumulate(out for out, _ in shapes)]
        self.spans = [slice(start, end) for start, end in pairwise(ends)]
        self.base = merged_linear(list(layers.values()), prepack, batch_invariant)
        self._bias = merged_bias(list(layers.values()))
        self._like = like
        self.slots = empty_slots(self.size_in, self.spans, like, batch_invariant)
        self._factor: torch.Tensor | None = None  # (slots, out), once an adapter has DoRA factors
        self._slot_count = 0
        self._changed: set[int] = set()  # slots whose adapters change one of these layers
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

    def reserve(self, slots: int, rank: int) -> None:
        """Make room for slots of a rank; what is in them stays."""
        self.slots.reserve(slots, rank)
        self._slot_count = slots
        if self._factor is not None:
            self._factor = self._ones(self._factor)

    def put(self, slot: int, weights: Sequence[LoraWeights | None]) -> None:
        """Write an adapter's weights for each layer into a slot, None for a layer that it does not change."""
        self.slots.put(slot, weights)
        self._changed.discard(slot)
        if any(weights):
            self._changed.add(slot)
        if self._factor is not None:
            self._factor[slot] = 1
        for span, each in zip(self.spans, weights, strict=True):
            if each is not None and each.factor is not None:
                if self._factor is None:
                    self._factor = self._ones()
                self._factor[slot, span] = each.factor.to(self._factor.dtype)

    def _ones(self, kept: torch.Tensor | None = None) -> torch.Tensor:
        ones = self._like.new_ones(self._slot_count, self.spans[-1].stop)
        if kept is not None:
            ones[: len(kept)] = kept
        return ones

    def part(self, index: int, x: torch.Tensor) -> torch.Tensor:
        """The output of one layer; all are computed when the first is asked for."""
        if self._last is None or self._last[0] is not x:
            self._last = (x, self.all(x))
        output = self._last[1][..., self.spans[index]]
        if index == len(self.spans) - 1:
            self._last = None
        return output

    def all(self, x: torch.Tensor) -> torch.Tensor:
        """The outputs of all layers, concatenated: (rows, tokens, in) -> (rows, tokens, out), a new tensor."""
        mapping = self._active.mapping
        if mapping is None or self._changed.isdisjoint(mapping.slots_in_use):
            return self.base(x)
        y = self.slots.apply(self.base, x, mapping)
        if self._factor is None:
            return y
        factor = self._factor.index_select(0, mapping.rows)[:, None]
        return y * factor if self._bias is None else (y - self._bias) * factor + self._bias


class LoraLinear(torch.nn.Module):
    """Replaces one linear layer of a group in the model."""

    def __init__(self, group: LoraLayerGroup, index: int) -> None:
        super().__init__()
        self.group = group
        self.size = group.spans[index].stop - group.spans[index].start
        self._index = index

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the layer: (rows, tokens, in) -> (rows, tokens, out)."""
        return self.group.part(self._index, x)


@dataclass
class LoraLayers:
    """All groups of a model; made by `add_lora_layers`.

    Attributes:
        groups: The groups, in the model's order.
        active: The mapping of the current forward pass.
    """

    groups: list[LoraLayerGroup]
    active: ActiveMapping

    @property
    def paths(self) -> frozenset[str]:
        """Module paths of all layers that an adapter may change."""
        return frozenset(path for group in self.groups for path in group.paths)

    def shape(self, path: str) -> tuple[int, int]:
        """(out, in) of a layer."""
        group, span = self._find(path)
        return span.stop - span.start, group.size_in

    def weight(self, path: str) -> torch.Tensor:
        """The frozen weight of a layer as it is computed with; shape (out, in)."""
        group, span = self._find(path)
        return group.base.dense()[span]

    def _find(self, path: str) -> tuple[LoraLayerGroup, slice]:
        group = next(group for group in self.groups if path in group.paths)
        return group, group.spans[group.paths.index(path)]

    def reserve(self, slots: int, rank: int) -> None:
        """See `LoraLayerGroup.reserve`."""
        for group in self.groups:
            group.reserve(slots, rank)
        use_huge_pages(tensor for group in self.groups for tensor in group.slots.tensors())

    def put(self, slot: int, weights: Mapping[str, LoraWeights]) -> None:
        """Write an adapter's weights into a slot, by the paths of the layers that it changes."""
        for group in self.groups:
            group.put(slot, [weights.get(path) for path in group.paths])


def add_lora_layers(model: Any, batch_invariant: bool = False) -> LoraLayers:
    """Replace a model's linear layers, except its output layer, by layers with LoRA slots; their weights move."""
    active = ActiveMapping()
    prepack, like = can_prepack(model), torch.empty(0, dtype=model.dtype, device=model.device)
    groups = []
    for layers in list(_merged_layers(model)):
        group = LoraLayerGroup(layers, active, prepack, like, batch_invariant)
        for index, path in enumerate(layers):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, LoraLinear(group, index))
        groups.append(group)
    return LoraLayers(groups, active)


def _merged_layers(model: Any) -> Iterator[dict[str, torch.nn.Module]]:
    """Paths and layers of each group, in the model's order."""
    head = model.get_output_embeddings()
    layers = {path: each for path, each in model.named_modules() if is_linear(each) and each is not head}
    done: set[str] = set()
    for path, layer in layers.items():
        if path in done:
            continue
        parent, _, name = path.rpartition(".")
        names = next((names for names in _MERGED if name in names), (name,))
        paths = [f"{parent}.{each}" for each in names]
        others = [layers.get(each) for each in paths]
        can_merge = all(type(each) is torch.nn.Linear and shape_of(each)[1] == shape_of(layer)[1] for each in others)
        group = paths if can_merge else [path]
        done.update(group)
        yield {each: layers[each] for each in group}
