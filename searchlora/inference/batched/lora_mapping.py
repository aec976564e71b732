"""LoRA mapping: which slot each row of a batch uses, as index tensors that all layers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

#: The slot of the bare base model: its A and B are zero.
BASE_SLOT = 0


@dataclass(frozen=True)
class LoraMapping:
    """Rows arranged in segments of equal length, one segment per adapter of the batch.

    A and B of all adapters are then multiplied in one batched product each, which reads each adapter's weights once. If
    the rows already are in that order, nothing is moved.

    Attributes:
        slots: Slot of each segment; a slice if the slots are consecutive (nothing is copied then).
        gather: The row at each place of the segments, shape (segments * width,); None if the rows are in order.
        scatter: The place of each row in the segments, shape (rows,); None as `gather`.
        segments: Number of adapters, the base model included if rows without an adapter are in the batch.
        row_slots: Slot of each row.
        adapter_rows: Slots and the rows that use them, without the base model's.
        device: Of the tensors.
        derived: What slots have computed from the mapping, by keys of their own.
    """

    slots: slice | torch.Tensor
    gather: torch.Tensor | None
    scatter: torch.Tensor | None
    segments: int
    row_slots: tuple[int, ...]
    adapter_rows: Sequence[tuple[int, Sequence[int]]]
    device: torch.device | str
    derived: dict[Any, Any] = field(default_factory=dict)
    _translated: dict[tuple[int, ...], LoraMapping | None] = field(default_factory=dict)

    @cached_property
    def slots_in_use(self) -> frozenset[int]:
        """All slots that rows use, without the base model's."""
        return frozenset(slot for slot, _ in self.adapter_rows)

    def translated(self, entries: Mapping[int, int]) -> LoraMapping | None:
        """The mapping for a table that has some of the slots, under other numbers; None if no row uses them.

        Args:
            entries: Slot -> its entry in the table; rows of other slots use entry 0.
        """
        numbers = tuple(entries.get(slot, BASE_SLOT) for slot in self.row_slots)
        if numbers not in self._translated:
            self._translated[numbers] = map_rows(numbers, self.device)
        return self._translated[numbers]

    def select(self, table: torch.Tensor) -> torch.Tensor:
        """Entries of a table (slots, ...) for the segments."""
        return table[self.slots] if isinstance(self.slots, slice) else table.index_select(0, self.slots)

    def to_segments(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, tokens, size) -> (segments, width * tokens, size)."""
        if self.gather is not None:
            x = x.index_select(0, self.gather)
        return x.reshape(self.segments, -1, x.shape[-1])

    def add_product(self, y: torch.Tensor, inner: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """y (rows, tokens, out) plus inner (segments, width * tokens, rank) · b (segments, rank, out), in place."""
        if self.scatter is None:
            y.view(self.segments, -1, y.shape[-1]).baddbmm_(inner, b)
            return y
        product = torch.bmm(inner, b).view(-1, *y.shape[1:])
        return y.add_(product.index_select(0, self.scatter))


def map_rows(slots: Sequence[int], device: torch.device | str) -> LoraMapping | None:
    """The mapping of rows that use these slots; None if all rows use the bare base model."""
    used = sorted(set(slots))
    if used == [BASE_SLOT]:
        return None
    rows_of = {slot: [row for row, other in enumerate(slots) if other == slot] for slot in used}
    width = max(map(len, rows_of.values()))
    places = [row for rows in rows_of.values() for row in (*rows, *rows[:1] * (width - len(rows)))]
    in_order = places == list(range(len(slots)))
    scatter = [0] * len(slots)
    for segment, rows in enumerate(rows_of.values()):
        for place, row in enumerate(rows):
            scatter[row] = segment * width + place
    consecutive = used[-1] - used[0] == len(used) - 1
    return LoraMapping(
        slots=slice(used[0], used[-1] + 1) if consecutive else torch.tensor(used, device=device),
        gather=None if in_order else torch.tensor(places, device=device),
        scatter=None if in_order else torch.tensor(scatter, device=device),
        segments=len(used),
        row_slots=tuple(slots),
        device=device,
        adapter_rows=[(slot, rows) for slot, rows in rows_of.items() if slot != BASE_SLOT],
    )
