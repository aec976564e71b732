"""The A and B of all slots, for layers that read the same input, and how a batch of rows is changed by them.

Two layouts: `Blocks` for PyTorch's batched products, `Packed` for the compiled kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch

from searchlora.inference.batched import frozen_linear
from searchlora.inference.batched.frozen_linear import Linear
from searchlora.inference.batched.lora_mapping import Routing
from searchlora.inference.batched.native import kernels
from searchlora.inference.batched.native.bindings import COLUMNS, DEPTH, Kernels, Layers, packed, unpacked


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


class Tables(Protocol):
    """A and B of all slots."""

    def make_room(self, slots: int, rank: int) -> None:
        """Let there be so many slots of such a rank; what is in them stays. Where memory runs out, all is as before."""

    def put(self, slot: int, changes: Sequence[Change | None]) -> None:
        """An adapter's change of each layer into a slot, None for a layer that it leaves as it is."""

    def add(self, x: torch.Tensor, y: torch.Tensor, routing: Routing) -> torch.Tensor:
        """y (rows, tokens, out) and what each row's adapter does with x (rows, tokens, in); y may be changed."""

    def changed(self, base: Linear, x: torch.Tensor, routing: Routing) -> torch.Tensor:
        """What a base makes of x and what each row's adapter adds; shape (rows, tokens, out)."""

    def held(self) -> Sequence[torch.Tensor]:
        """A and B."""


def tables(size_in: int, spans: Sequence[slice], like: torch.Tensor) -> Tables:
    """Empty ones.

    Args:
        spans: The columns of each layer in the outcome.
        like: A tensor of the kind that A and B are held as.
    """
    compiled = kernels(like)
    return Blocks(size_in, spans, like) if compiled is None else Packed(size_in, spans, like, compiled)


class Blocks:
    """A of the layers side by side, B as blocks on a diagonal, so that each is one product for all layers."""

    def __init__(self, size_in: int, spans: Sequence[slice], like: torch.Tensor) -> None:
        self._spans = spans
        self._a = like.new_zeros(0, size_in, len(spans), 0)  # (slots, in, layers, rank)
        self._b = like.new_zeros(0, spans[-1].stop, len(spans), 0)  # (slots, out, layers, rank)

    def make_room(self, slots: int, rank: int) -> None:
        a = _grown(self._a, (slots, *self._a.shape[1:3], rank))
        self._a, self._b = a, _grown(self._b, (slots, *self._b.shape[1:3], rank))

    def put(self, slot: int, changes: Sequence[Change | None]) -> None:
        self._a[slot], self._b[slot] = 0, 0
        for layer, (span, change) in enumerate(zip(self._spans, changes, strict=True)):
            if change is not None:
                self._a[slot, :, layer, : len(change.a)] = change.a.T
                self._b[slot, span, layer, : len(change.a)] = change.b

    def add(self, x: torch.Tensor, y: torch.Tensor, routing: Routing) -> torch.Tensor:
        inner = torch.bmm(routing.segmented(x), routing.of(self._a).flatten(2))
        return routing.added(y, inner, routing.of(self._b).flatten(2).transpose(1, 2))

    def changed(self, base: Linear, x: torch.Tensor, routing: Routing) -> torch.Tensor:
        return self.add(x, base(x), routing)

    def held(self) -> Sequence[torch.Tensor]:
        return (self._a, self._b)


class Packed:
    """A and B as the kernels read them, from one end to the other."""

    def __init__(self, size_in: int, spans: Sequence[slice], like: torch.Tensor, compiled: Kernels) -> None:
        self._kernels, self._layers, self._size_in = compiled, len(spans), size_in
        self._ends = torch.tensor([span.stop for span in spans])
        counts = [-(-(span.stop - span.start) // COLUMNS) for span in spans]
        self._blocks = [slice(end - count, end) for count, end in zip(counts, accumulate(counts), strict=True)]
        self._rank = 0
        self._a = packed(like.new_zeros(0, 0, size_in))  # of (slots, layers * rank, in)
        self._b = packed(like.new_zeros(0, COLUMNS * sum(counts), 0))  # of (slots, out, rank), each layer filled up
        self._all = Layers(self._a, self._b, self._ends, size_in)

    def make_room(self, slots: int, rank: int) -> None:
        step = 2 if rank <= DEPTH else DEPTH  # as the kernels want it
        rank = max(self._rank, -(-rank // step) * step)
        if rank == self._rank:
            a, b = _grown(self._a, (slots, *self._a.shape[1:])), _grown(self._b, (slots, *self._b.shape[1:]))
        else:
            before = unpacked(self._a)[:, : self._layers * self._rank]
            before = before.reshape(len(before), self._layers, self._rank, before.shape[2])
            a = packed(_grown(before, (slots, self._layers, rank, before.shape[3])).flatten(1, 2))
            b = packed(_grown(unpacked(self._b), (slots, COLUMNS * self._b.shape[1], rank)))
        self._a, self._b, self._rank = a, b, rank
        self._all = Layers(a, b, self._ends, self._size_in)

    def put(self, slot: int, changes: Sequence[Change | None]) -> None:
        a = self._a.new_zeros(self._layers, self._rank, self._a.shape[2] * self._a.shape[4])
        self._b[slot] = 0
        for layer, (blocks, change) in enumerate(zip(self._blocks, changes, strict=True)):
            if change is not None:
                a[layer, : change.a.shape[0], : change.a.shape[1]] = change.a
                b = self._b.new_zeros(change.b.shape[0], self._rank)
                b[:, : change.b.shape[1]] = change.b
                self._b[slot, blocks] = packed(b)
        self._a[slot] = packed(a.flatten(0, 1))

    def add(self, x: torch.Tensor, y: torch.Tensor, routing: Routing) -> torch.Tensor:
        if x.dtype != self._a.dtype or y.dtype != self._a.dtype:
            return self.add(x.to(self._a.dtype), y.to(self._a.dtype), routing).to(y.dtype)
        y = y.contiguous()
        self._kernels.lora(x.contiguous(), y, self._all, routing.items(x.shape[1]))
        return y

    def changed(self, base: Linear, x: torch.Tensor, routing: Routing) -> torch.Tensor:
        if isinstance(base, frozen_linear.Packed) and self._all.even and base.adds(x):
            return base.few(x, (self._all, routing.items(x.shape[1])))
        return self.add(x, base(x), routing)

    def held(self) -> Sequence[torch.Tensor]:
        return (self._a, self._b)


def _grown(old: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Of that shape, what was there in its place, zeros elsewhere; never smaller than before.

    Memory may run out in the middle of a model's tables: some are larger than others then, and stay so.
    """
    new = old.new_zeros(*map(max, shape, old.shape))
    new[tuple(slice(size) for size in old.shape)] = old
    return new
