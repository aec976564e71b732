"""Linear layers of a base model with LoRA slots: each row of a batch uses its own A and B.

Layers with the same input (query, key and value; gate and up) are merged into one product, and so are their A. A and B
are applied as a `LoraMapping` says; the compiled kernel computes all adapters of the batch at once, as Punica
(arXiv:2310.18547) and S-LoRA (arXiv:2311.03285) do on GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Protocol, TypeAlias

import torch

from searchlora.cpu.backend import lora_slots, padded_rank, release_free_memory, use_huge_pages
from searchlora.inference.batched.frozen_linear import (
    FrozenLinear,
    blocked_linear,
    is_linear,
    merged_linear,
    release_originals,
    shape_of,
)
from searchlora.models.text_model import computing_dtype, text_model

#: The slot of the bare base model.
BASE_SLOT = 0

#: Names of layers that get the same input in a transformer block.
_MERGED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@dataclass(frozen=True)
class LoraMapping:
    """The slots of a batch's rows."""

    adapter_rows: Sequence[tuple[int, list[int]]]
    derived: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def slots_in_use(self) -> frozenset[int]:
        return frozenset(slot for slot, _ in self.adapter_rows)


def map_rows(slots: Sequence[int]) -> LoraMapping | None:
    """The mapping of rows that use these slots; None if all rows use the bare base model.

    Examples:
        >>> map_rows([0, 2, 1, 2]).adapter_rows
        [(1, [2]), (2, [1, 3])]
    """
    rows_of: dict[int, list[int]] = {}
    for row, slot in enumerate(slots):
        if slot != BASE_SLOT:
            rows_of.setdefault(slot, []).append(row)
    return LoraMapping(sorted(rows_of.items())) if rows_of else None


@dataclass(frozen=True)
class LoraWeights:
    """The weights of an adapter for one linear layer: a (rank, in), and b (out, rank) with the scaling."""

    a: torch.Tensor
    b: torch.Tensor


#: An adapter's A and B of one group of layers, as a slot holds them; None if it changes none of the layers.
PackedGroup: TypeAlias = tuple[torch.Tensor, torch.Tensor] | None


class SlotWeights(Protocol):
    """A and B of all slots for layers with the same input; each slot takes the memory of its own rank."""

    def pack(self, weights: Sequence[LoraWeights | None]) -> PackedGroup:
        """A and B as the slots hold them; one entry per layer, None for a layer that the adapter does not change.

        Nothing is changed, so any thread may call it.
        """

    def put(self, slot: int, packed: PackedGroup) -> None:
        """Set the weights of a slot, without a copy."""

    def clear(self, slot: int) -> None: ...

    def add(self, x: torch.Tensor, y: torch.Tensor, mapping: LoraMapping) -> torch.Tensor:
        """y (rows, tokens, out) plus B·A·x of each row's adapter, x (rows, tokens, in); y may be changed in place."""

    def apply(self, base: FrozenLinear, x: torch.Tensor, mapping: LoraMapping) -> torch.Tensor:
        """The base layer's output for x plus B·A·x of each row's adapter; shape (rows, tokens, out)."""

    def tensors(self) -> Sequence[torch.Tensor]: ...


class TorchSlots:
    """Slots without compiled kernels: one adapter after the other, in blocks of rows, so that a row's result does not
    depend on the other rows. A of the layers are concatenated, and B is block-diagonal.
    """

    def __init__(self, size_in: int, spans: Sequence[slice], like: torch.Tensor) -> None:
        self._size_in, self._spans, self._like = size_in, spans, like
        self._weights: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # slot -> (layers * rank, in), (out, …)

    def pack(self, weights: Sequence[LoraWeights | None]) -> PackedGroup:
        rank = padded_rank(max((len(change.a) for change in weights if change is not None), default=0))
        if not rank:
            return None
        a = self._like.new_zeros(len(self._spans), rank, self._size_in)
        b = self._like.new_zeros(self._spans[-1].stop, len(self._spans), rank)
        for layer, (span, change) in enumerate(zip(self._spans, weights, strict=True)):
            if change is not None:
                a[layer, : len(change.a)] = change.a
                b[span, layer, : len(change.a)] = change.b
        return a.flatten(0, 1), b.flatten(1)

    def put(self, slot: int, packed: PackedGroup) -> None:
        self.clear(slot)
        if packed is not None:
            self._weights[slot] = packed

    def clear(self, slot: int) -> None:
        self._weights.pop(slot, None)

    def add(self, x: torch.Tensor, y: torch.Tensor, mapping: LoraMapping) -> torch.Tensor:
        for slot, rows in mapping.adapter_rows:
            if slot in self._weights:
                a, b = map(blocked_linear, self._weights[slot])
                index = torch.tensor(rows)
                product = b(a(x.index_select(0, index).flatten(0, 1)))
                y.index_add_(0, index, product.view(len(rows), *y.shape[1:]))
        return y

    def apply(self, base: FrozenLinear, x: torch.Tensor, mapping: LoraMapping) -> torch.Tensor:
        return self.add(x, base(x), mapping)

    def tensors(self) -> Sequence[torch.Tensor]:
        return [tensor for pair in self._weights.values() for tensor in pair]


@dataclass
class ActiveMapping:
    mapping: LoraMapping | None = None


class LoraLayerGroup:
    """Linear layers with the same input.

    `layers`: Module path of each layer -> the layer.
    """

    def __init__(
        self,
        layers: Mapping[str, torch.nn.Module],
        active: ActiveMapping,
        like: torch.Tensor,
        batch_invariant: bool = False,
    ) -> None:
        self.paths = tuple(layers)
        self._active = active
        shapes = [shape_of(layer) for layer in layers.values()]
        self.size_in = shapes[0][1]
        ends = [0, *accumulate(out for out, _ in shapes)]
        self.spans = [slice(start, end) for start, end in pairwise(ends)]
        self.base = merged_linear(list(layers.values()), like.dtype, batch_invariant)
        self._like = like
        self.slots: SlotWeights = lora_slots(self.size_in, self.spans, like) or TorchSlots(
            self.size_in, self.spans, like
        )
        self._changed: set[int] = set()  # slots whose adapters change one of these layers
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

    def pack(self, weights: Sequence[LoraWeights | None]) -> PackedGroup:
        """The weights of an adapter as a slot holds them: one entry per layer, None for a layer without a change."""
        return self.slots.pack(weights)

    def put(self, slot: int, packed: PackedGroup) -> None:
        """Set the weights of a slot."""
        self.clear(slot)
        self.slots.put(slot, packed)
        if packed is not None:
            self._changed.add(slot)

    def clear(self, slot: int) -> None:
        self.slots.clear(slot)
        self._changed.discard(slot)

    @property
    def element_size(self) -> int:
        return self._like.element_size()

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
        return self.slots.apply(self.base, x, mapping)


class LoraLinear(torch.nn.Module):
    """Replaces one linear layer of a group in the model."""

    def __init__(self, group: LoraLayerGroup, index: int) -> None:
        super().__init__()
        self.group = group
        self.size = group.spans[index].stop - group.spans[index].start
        self._index = index

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.group.part(self._index, x)


@dataclass
class LoraLayers:
    """All groups of a model; made by `add_lora_layers`."""

    groups: list[LoraLayerGroup]
    active: ActiveMapping

    @property
    def paths(self) -> frozenset[str]:
        return frozenset(path for group in self.groups for path in group.paths)

    def shape(self, path: str) -> tuple[int, int]:
        """(out, in) of a layer."""
        group = next(group for group in self.groups if path in group.paths)
        span = group.spans[group.paths.index(path)]
        return span.stop - span.start, group.size_in

    def size(self, ranks: Mapping[str, int]) -> int:
        """Bytes of an adapter in a slot, by the rank of each layer that it changes."""
        elements = 0
        for group in self.groups:
            rank = padded_rank(max((ranks.get(path, 0) for path in group.paths), default=0))
            elements += rank * (len(group.paths) * group.size_in + group.spans[-1].stop)
        return elements * self.groups[0].element_size if self.groups else 0

    def pack(self, weights: Mapping[str, LoraWeights]) -> list[PackedGroup]:
        """An adapter as the slots of each group hold it, by the paths of the layers that it changes.

        Nothing is changed, so any thread may call it.
        """
        packed = [group.pack([weights.get(path) for path in group.paths]) for group in self.groups]
        use_huge_pages(tensor for part in packed if part is not None for tensor in part)
        return packed

    def put(self, slot: int, packed: Sequence[PackedGroup]) -> None:
        """Set the weights of a slot. After an error the slot is empty."""
        try:
            for group, part in zip(self.groups, packed, strict=True):
                group.put(slot, part)
        except BaseException:
            self.clear(slot)
            raise

    def clear(self, slot: int) -> None:
        for group in self.groups:
            group.clear(slot)


def add_lora_layers(model: Any, batch_invariant: bool = False) -> LoraLayers:
    """Replace a model's linear layers that adapters may change by layers with LoRA slots; their weights move."""
    active = ActiveMapping()
    like = torch.empty(0, dtype=computing_dtype(model))
    groups = []
    for paths in _merged_layers(model):  # the layers of a group are freed before the next one is merged
        layers = {path: model.get_submodule(path) for path in paths}
        group = LoraLayerGroup(layers, active, like, batch_invariant)
        for index, path in enumerate(paths):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, LoraLinear(group, index))
        release_originals(list(layers.values()), group.base)
        groups.append(group)
        release_free_memory()
    return LoraLayers(groups, active)


def lora_targets(model: Any) -> dict[str, torch.nn.Module]:
    """The linear layers that an adapter may change, by module path: those of the text model but its output layer."""
    head, inside = model.get_output_embeddings(), set(text_model(model).modules())
    return {
        path: layer
        for path, layer in model.named_modules()
        if is_linear(layer) and layer in inside and layer is not head
    }


def _merged_layers(model: Any) -> list[list[str]]:
    """Paths of the layers of each group, in the model's order."""
    layers = lora_targets(model)
    groups: list[list[str]] = []
    for path, layer in layers.items():
        if any(path in group for group in groups):
            continue
        parent, _, name = path.rpartition(".")
        names = next((names for names in _MERGED if name in names), (name,))
        paths = [f"{parent}.{sibling}" for sibling in names]
        others = [layers.get(sibling) for sibling in paths]
        can_merge = all(
            type(sibling) is torch.nn.Linear and shape_of(sibling)[1] == shape_of(layer)[1] for sibling in others
        )
        groups.append(paths if can_merge else [path])
    return groups
