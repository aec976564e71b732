"""The linear layers of a base, with slots for the A and B of many adapters.

Layers that read the same input (query, key and value; gate and up) become one product, and so do their A. Each row's
own A and B are applied as `routing` says, for all adapters of the batch in one batched product (as in Punica,
arXiv:2310.18547, and S-LoRA, arXiv:2311.03285, whose kernels are for GPUs).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch

from searchlora.inference.batched.frozen_linear import bias_of, is_linear, packing, shape_of, side_by_side
from searchlora.inference.batched.lora_mapping import Routing
from searchlora.inference.batched.native.huge_pages import in_large_pages
from searchlora.inference.batched.tables import Change, tables

#: Layers that a transformer block gives the same input, by their names.
_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@dataclass
class Worn:
    """What the rows of the forward pass under way wear; None: all are the bare base."""

    routing: Routing | None = None


class Group:
    """Layers with one input.

    Args:
        layers: Path of each layer in the model -> the layer.
        worn: Shared by all groups of a model.
        packed: Whether to lay weights out as the CPU's matrix kernels want them, see `frozen_linear.packing`.
        like: A tensor of the kind that A and B are held as.
    """

    def __init__(self, layers: Mapping[str, torch.nn.Module], worn: Worn, packed: bool, like: torch.Tensor) -> None:
        self.paths = tuple(layers)
        self._worn = worn
        shapes = [shape_of(layer) for layer in layers.values()]
        self.size_in = shapes[0][1]
        ends = [0, *accumulate(out for out, _ in shapes)]
        self.spans = [slice(start, end) for start, end in pairwise(ends)]
        self.base = side_by_side(list(layers.values()), packed)
        self._bias = bias_of(list(layers.values()))
        self._like = like
        self.tables = tables(self.size_in, self.spans, like)
        self._factor: torch.Tensor | None = None  # (slots, out), once an adapter has factors
        self._slots = 0
        self._changed: set[int] = set()  # slots whose adapters change one of these layers
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

    def make_room(self, slots: int, rank: int) -> None:
        """Let there be so many slots of such a rank; what is in them stays."""
        self.tables.make_room(slots, rank)
        self._slots = slots
        if self._factor is not None:
            self._factor = self._ones(self._factor)

    def put(self, slot: int, changes: Sequence[Change | None]) -> None:
        """An adapter's change of each layer into a slot, None for a layer that it leaves as it is."""
        self.tables.put(slot, changes)
        self._changed.discard(slot)
        if any(changes):
            self._changed.add(slot)
        if self._factor is not None:
            self._factor[slot] = 1
        for span, change in zip(self.spans, changes, strict=True):
            if change is not None and change.factor is not None:
                if self._factor is None:
                    self._factor = self._ones()
                self._factor[slot, span] = change.factor.to(self._factor.dtype)

    def _ones(self, kept: torch.Tensor | None = None) -> torch.Tensor:
        ones = self._like.new_ones(self._slots, self.spans[-1].stop)
        if kept is not None:
            ones[: len(kept)] = kept
        return ones

    def part(self, place: int, x: torch.Tensor) -> torch.Tensor:
        """The outcome of one of the layers; all are computed when the first is asked for."""
        if self._last is None or self._last[0] is not x:
            self._last = (x, self.all(x))
        found = self._last[1][..., self.spans[place]]
        if place == len(self.spans) - 1:
            self._last = None
        return found

    def all(self, x: torch.Tensor) -> torch.Tensor:
        """The outcomes of all layers side by side: (rows, tokens, in) -> (rows, tokens, out), a tensor of its own."""
        routing = self._worn.routing
        if routing is None or self._changed.isdisjoint(routing.worn):
            return self.base(x)
        y = self.tables.changed(self.base, x, routing)
        if self._factor is None:
            return y
        factor = self._factor.index_select(0, routing.rows)[:, None]
        return y * factor if self._bias is None else (y - self._bias) * factor + self._bias


class Member(torch.nn.Module):
    """Stands in the model where a layer of a group stood."""

    def __init__(self, group: Group, place: int) -> None:
        super().__init__()
        self.group = group
        self.size = group.spans[place].stop - group.spans[place].start
        self._place = place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the layer: (rows, tokens, in) -> (rows, tokens, out)."""
        return self.group.part(self._place, x)


@dataclass
class Projections:
    """All groups of a model; `take_over` makes them."""

    groups: list[Group]
    worn: Worn

    @property
    def paths(self) -> frozenset[str]:
        """Of every layer that an adapter may change."""
        return frozenset(path for group in self.groups for path in group.paths)

    def shape(self, path: str) -> tuple[int, int]:
        """(out, in) of a layer."""
        group, span = self._where(path)
        return span.stop - span.start, group.size_in

    def weight(self, path: str) -> torch.Tensor:
        """The weight of a layer as it is computed with; shape (out, in)."""
        group, span = self._where(path)
        return group.base.dense()[span]

    def _where(self, path: str) -> tuple[Group, slice]:
        group = next(group for group in self.groups if path in group.paths)
        return group, group.spans[group.paths.index(path)]

    def make_room(self, slots: int, rank: int) -> None:
        """See `Group.make_room`."""
        for group in self.groups:
            group.make_room(slots, rank)
        in_large_pages(each for group in self.groups for each in group.tables.held())

    def put(self, slot: int, changes: Mapping[str, Change]) -> None:
        """An adapter, by the paths of the layers that it changes."""
        for group in self.groups:
            group.put(slot, [changes.get(path) for path in group.paths])


def take_over(model: Any) -> Projections:
    """Put groups in the place of a model's linear layers, its output layer aside; the layers' own weights move."""
    worn = Worn()
    packed, like = packing(model), torch.empty(0, dtype=model.dtype, device=model.device)
    groups = []
    for layers in list(_grouped(model)):
        group = Group(layers, worn, packed, like)
        for place, path in enumerate(layers):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, Member(group, place))
        groups.append(group)
    return Projections(groups, worn)


def _grouped(model: torch.nn.Module) -> Iterator[dict[str, torch.nn.Module]]:
    """Paths and layers of each group, in the model's order."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    layers = {path: each for path, each in model.named_modules() if is_linear(each) and each is not head}
    done: set[str] = set()
    for path, layer in layers.items():
        if path in done:
            continue
        parent, _, name = path.rpartition(".")
        names = next((names for names in _TOGETHER if name in names), (name,))
        paths = [f"{parent}.{each}" for each in names]
        others = [layers.get(each) for each in paths]
        joined = all(type(each) is torch.nn.Linear and shape_of(each)[1] == shape_of(layer)[1] for each in others)
        found = paths if joined else [path]
        done.update(found)
        yield {each: layers[each] for each in found}
