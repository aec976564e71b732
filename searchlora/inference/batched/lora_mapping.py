"""Which adapter each row of a batch wears, as the index tensors that all layers share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from searchlora.inference.batched.native.bindings import Items

#: The slot of the bare base: its A and B are zero.
BARE = 0


@dataclass(frozen=True)
class Routing:
    """Rows laid out in segments of equal length, one segment for each adapter in the batch.

    So A and B of all adapters are multiplied in one batched product each, whatever rows wear them; the product reads
    the weights of each adapter once. Where the rows already lie so, nothing is moved.

    Attributes:
        slots: The slot of each segment, a slice where the slots follow each other (nothing is copied then).
        gather: Shape (segments * width,): the row in each place of the segments; None where rows already lie so.
        back: Shape (rows,): the place of each row in the segments; None as `gather`.
        segments: How many adapters, the bare base among them where rows without an adapter are mixed in.
        rows: Shape (rows,): the slot of each row.
        wearing: Slots and the rows that wear what is in them, those of the bare base left out.
    """

    slots: slice | torch.Tensor
    gather: torch.Tensor | None
    back: torch.Tensor | None
    segments: int
    rows: torch.Tensor
    wearing: Sequence[tuple[int, Sequence[int]]]
    _items: dict[int, Items] = field(default_factory=dict)

    @cached_property
    def worn(self) -> frozenset[int]:
        """All slots that rows wear, that of the bare base left out."""
        return frozenset(slot for slot, _ in self.wearing)

    def items(self, tokens: int) -> Items:
        """For the compiled kernels, of a pass with so many tokens in each row."""
        if tokens not in self._items:
            self._items[tokens] = Items(self.wearing, tokens)
        return self._items[tokens]

    def of(self, table: torch.Tensor) -> torch.Tensor:
        """A table's entries (slots, ...) for the segments."""
        return table[self.slots] if isinstance(self.slots, slice) else table.index_select(0, self.slots)

    def segmented(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, tokens, size) as (segments, width * tokens, size)."""
        if self.gather is not None:
            x = x.index_select(0, self.gather)
        return x.reshape(self.segments, -1, x.shape[-1])

    def added(self, y: torch.Tensor, inner: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """y (rows, tokens, out) plus inner (segments, width * tokens, rank) · b (segments, rank, out), in place."""
        if self.back is None:
            y.view(self.segments, -1, y.shape[-1]).baddbmm_(inner, b)
            return y
        change = torch.bmm(inner, b).view(-1, *y.shape[1:])
        return y.add_(change.index_select(0, self.back))


def route(slots: Sequence[int], device: Any) -> Routing | None:
    """The routing of rows that wear the adapters in these slots; None where all are the bare base."""
    found = sorted(set(slots))
    if found == [BARE]:
        return None
    of_slot = {slot: [row for row, other in enumerate(slots) if other == slot] for slot in found}
    width = max(map(len, of_slot.values()))
    places = [row for rows in of_slot.values() for row in (*rows, *rows[:1] * (width - len(rows)))]
    lie_so = places == list(range(len(slots)))
    back = [0] * len(slots)
    for segment, rows in enumerate(of_slot.values()):
        for place, row in enumerate(rows):
            back[row] = segment * width + place
    together = found[-1] - found[0] == len(found) - 1
    return Routing(
        slots=slice(found[0], found[-1] + 1) if together else torch.tensor(found, device=device),
        gather=None if lie_so else torch.tensor(places, device=device),
        back=None if lie_so else torch.tensor(back, device=device),
        segments=len(found),
        rows=torch.tensor(slots, device=device),
        wearing=[(slot, rows) for slot, rows in of_slot.items() if slot != BARE],
    )
