"""The linear layers of a base, with slots for the A and B of many adapters.

Layers that read the same input (query, key and value; gate and up) become one product, and so do their A. Each row's
own A and B are applied as `routing` says, for all adapters of the batch in one batched product (as in Punica,
arXiv:2310.18547, and S-LoRA, arXiv:2311.03285, whose kernels are for GPUs).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, Protocol

import torch

from searchlora.inference.batched.routing import Routing

#: Layers that a transformer block gives the same input, by their names.
_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class Linear(Protocol):
    """What a frozen linear layer, or several side by side, computes."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""

    def dense(self) -> torch.Tensor:
        """The weight that is computed with; shape (out, in)."""


@dataclass(frozen=True)
class Change:
    """What an adapter does to one linear layer.

    Attributes:
        a: Shape (rank, in).
        b: Shape (out, rank), its scaling in it.
        factor: Shape (out,): what DoRA multiplies the layer's outcome by; None for a LoRA without.
    """

    a: torch.Tensor
    b: torch.Tensor
    factor: torch.Tensor | None = None


@dataclass
class Worn:
    """What the rows of the forward pass under way wear; None: all are the bare base."""

    routing: Routing | None = None


class Group:
    """Layers with one input.

    Args:
        layers: Path of each layer in the model -> the layer.
        worn: Shared by all groups of a model.
        packed: Whether to lay weights out as the CPU's matrix kernels want them, see `packing`.
    """

    def __init__(self, layers: Mapping[str, torch.nn.Module], worn: Worn, packed: bool) -> None:
        self.paths = tuple(layers)
        self._worn = worn
        shapes = [_shape(layer) for layer in layers.values()]
        self.size_in = shapes[0][1]
        ends = [0, *accumulate(out for out, _ in shapes)]
        self.spans = [slice(start, end) for start, end in pairwise(ends)]
        self.base = _base(list(layers.values()), packed)
        self._bias = _bias(list(layers.values()))
        # Of all slots: A side by side (slots, in, layers * rank), B as blocks (slots, out, layers * rank).
        self._a: torch.Tensor | None = None
        self._b: torch.Tensor | None = None
        self._factor: torch.Tensor | None = None
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

    def make_room(self, slots: int, rank: int, like: torch.Tensor) -> None:
        """Let there be so many slots of such a rank; what is in them stays."""
        count, out = len(self.spans), self.spans[-1].stop
        a = like.new_zeros(slots, self.size_in, count * rank)
        b = like.new_zeros(slots, out, count * rank)
        if self._a is not None and self._b is not None:
            old = self._a.shape[2] // count
            for layer in range(count):
                kept, was = slice(layer * rank, layer * rank + old), slice(layer * old, (layer + 1) * old)
                a[: len(self._a), :, kept] = self._a[:, :, was]
                b[: len(self._b), :, kept] = self._b[:, :, was]
        if self._factor is not None:
            ones = like.new_ones(slots, out)
            ones[: len(self._factor)] = self._factor
            self._factor = ones
        self._a, self._b = a, b

    def put(self, slot: int, changes: Sequence[Change | None]) -> None:
        """An adapter's change of each layer into a slot, None for a layer that it leaves as it is."""
        assert self._a is not None and self._b is not None
        self._a[slot] = 0
        self._b[slot] = 0
        if self._factor is not None:
            self._factor[slot] = 1
        width = self._a.shape[2] // len(self.spans)
        for place, (span, change) in enumerate(zip(self.spans, changes, strict=True)):
            if change is None:
                continue
            rank = slice(place * width, place * width + len(change.a))
            self._a[slot, :, rank] = change.a.T.to(self._a.dtype)
            self._b[slot, span, rank] = change.b.to(self._b.dtype)
            if change.factor is not None:
                if self._factor is None:
                    self._factor = self._a.new_ones(len(self._a), self.spans[-1].stop)
                self._factor[slot, span] = change.factor.to(self._factor.dtype)

    def part(self, place: int, x: torch.Tensor) -> torch.Tensor:
        """The outcome of one of the layers; all are computed when the first is asked for."""
        if self._last is None or self._last[0] is not x:
            self._last = (x, self._all(x))
        found = self._last[1][..., self.spans[place]]
        if place == len(self.spans) - 1:
            self._last = None
        return found

    def _all(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base(x)
        routing = self._worn.routing
        if routing is None or self._a is None or self._b is None:
            return y
        inner = torch.bmm(routing.segmented(x), routing.of(self._a))
        y = routing.added(y, inner, routing.of(self._b).transpose(1, 2))
        if self._factor is None:
            return y
        factor = self._factor.index_select(0, routing.rows)[:, None]
        return y * factor if self._bias is None else (y - self._bias) * factor + self._bias


class Member(torch.nn.Module):
    """Stands in the model where a layer of a group stood."""

    def __init__(self, group: Group, place: int) -> None:
        super().__init__()
        self._group = group
        self._place = place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the layer: (rows, tokens, in) -> (rows, tokens, out)."""
        return self._group.part(self._place, x)


@dataclass
class Projections:
    """All groups of a model; `take_over` makes them."""

    groups: list[Group]
    worn: Worn = field(default_factory=Worn)

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

    def make_room(self, slots: int, rank: int, like: torch.Tensor) -> None:
        """See `Group.make_room`."""
        for group in self.groups:
            group.make_room(slots, rank, like)

    def put(self, slot: int, changes: Mapping[str, Change]) -> None:
        """An adapter, by the paths of the layers that it changes."""
        for group in self.groups:
            group.put(slot, [changes.get(path) for path in group.paths])


def take_over(model: torch.nn.Module) -> Projections:
    """Put groups in the place of a model's linear layers, its output layer aside; the layers' own weights move."""
    worn = Worn()
    packed = packing(model)
    groups = []
    for layers in list(_grouped(model)):
        group = Group(layers, worn, packed)
        for place, path in enumerate(layers):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, Member(group, place))
        groups.append(group)
    return Projections(groups, worn)


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


class Packed:
    """The same with the weight laid out for the CPU; see `packing`."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        return found

    def dense(self) -> torch.Tensor:
        dense: torch.Tensor = self._packed.to_dense()
        return dense


@dataclass(frozen=True)
class Kept:
    """A layer of another kind (4-bit, GPT-2's) computes as it did."""

    layer: Any

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x)
        return found

    def dense(self) -> torch.Tensor:
        weight = self.layer.weight
        if not isinstance(self.layer, torch.nn.Linear):
            return weight.detach().T  # type: ignore[no-any-return]
        if hasattr(weight, "quant_state"):
            from bitsandbytes.functional import dequantize_4bit

            return dequantize_4bit(weight.data, weight.quant_state)  # type: ignore[no-any-return]
        return weight.detach()  # type: ignore[no-any-return]


def linear(weight: torch.Tensor, bias: torch.Tensor | None, packed: bool) -> Linear:
    """A frozen layer of a weight (out, in)."""
    return Packed(weight, bias) if packed else Plain(weight, bias)


def _grouped(model: torch.nn.Module) -> Iterator[dict[str, torch.nn.Module]]:
    """Paths and layers of each group, in the model's order."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    layers = {path: each for path, each in model.named_modules() if _is_linear(each) and each is not head}
    done: set[str] = set()
    for path, layer in layers.items():
        if path in done:
            continue
        parent, _, name = path.rpartition(".")
        names = next((names for names in _TOGETHER if name in names), (name,))
        paths = [f"{parent}.{each}" for each in names]
        others = [layers.get(each) for each in paths]
        joined = all(type(each) is torch.nn.Linear and _shape(each)[1] == _shape(layer)[1] for each in others)
        found = paths if joined else [path]
        done.update(found)
        yield {each: layers[each] for each in found}


def _is_linear(layer: torch.nn.Module) -> bool:
    if isinstance(layer, torch.nn.Linear):  # bitsandbytes' 4-bit layers among them
        return True
    return type(layer).__name__ == "Conv1D"  # GPT-2's, whose weight is (in, out)


def _shape(layer: Any) -> tuple[int, int]:
    """(out, in)."""
    if isinstance(layer, torch.nn.Linear):
        return layer.out_features, layer.in_features
    return layer.nf, layer.nx


def _base(layers: list[Any], packed: bool) -> Linear:
    if not all(type(layer) is torch.nn.Linear for layer in layers):
        return Kept(layers[0])
    return linear(torch.cat([layer.weight.detach() for layer in layers]), _bias(layers), packed)


def _bias(layers: list[Any]) -> torch.Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    like = layers[0].bias if layers[0].bias is not None else next(each.bias for each in layers if each.bias is not None)
    return torch.cat([like.new_zeros(_shape(each)[0]) if each.bias is None else each.bias.detach() for each in layers])
