"""LoRA mapping: which slot each row of a batch uses; all layers share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

#: The slot of the bare base model.
BASE_SLOT = 0


@dataclass(frozen=True)
class LoraMapping:
    """The slots of a batch's rows.

    Attributes:
        row_slots: Slot of each row.
        adapter_rows: Slots and the rows that use them, in ascending order, without the base model's.
        device: Of index tensors.
        derived: What slots have computed from the mapping, by keys of their own.
    """

    row_slots: tuple[int, ...]
    adapter_rows: Sequence[tuple[int, list[int]]]
    device: torch.device | str
    derived: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def slots_in_use(self) -> frozenset[int]:
        return frozenset(slot for slot, _ in self.adapter_rows)

    def segments(self, slots: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The rows of some slots in segments of equal length, one for each slot, so that one batched product computes
        all.

        Returns:
            The row at each place of the segments, where short segments repeat their first row, shape
            (slots * length,); the rows without repetition, and the place of each, both of shape (rows of the slots,).
        """
        if slots not in self.derived:
            rows_of = dict(self.adapter_rows)
            groups = [rows_of[slot] for slot in slots]
            length = max(map(len, groups))
            padded = [row for group in groups for row in group + group[:1] * (length - len(group))]
            rows = [row for group in groups for row in group]
            places = [start * length + place for start, group in enumerate(groups) for place in range(len(group))]
            self.derived[slots] = tuple(torch.tensor(index, device=self.device) for index in (padded, rows, places))
        segments: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = self.derived[slots]
        return segments


def map_rows(slots: Sequence[int], device: torch.device | str) -> LoraMapping | None:
    """The mapping of rows that use these slots; None if all rows use the bare base model.

    Examples:
        >>> mapping = map_rows([0, 2, 1, 2], "cpu")
        >>> mapping.adapter_rows
        [(1, [2]), (2, [1, 3])]
        >>> [index.tolist() for index in mapping.segments((1, 2))]
        [[2, 2, 1, 3], [2, 1, 3], [0, 2, 3]]
    """
    rows_of: dict[int, list[int]] = {}
    for row, slot in enumerate(slots):
        if slot != BASE_SLOT:
            rows_of.setdefault(slot, []).append(row)
    return LoraMapping(tuple(slots), sorted(rows_of.items()), device) if rows_of else None
