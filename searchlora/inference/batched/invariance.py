"""The parts of a batch-invariant model beside attention and linear layers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch

from searchlora.models.text_model import computing_dtype, text_model


def in_blocks(function: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor, size: int) -> torch.Tensor:
    """The results of a function of rows (n, ...), computed in blocks of `size` rows of which the last is padded.

    A library chooses its algorithm, and with it the order of its sums, by the shapes of its operands. With one shape,
    and if the algorithm treats all rows of a block alike, a row's result depends on that row only.
    """
    missing = -len(rows) % size
    padded = torch.nn.functional.pad(rows, (*[0, 0] * (rows.dim() - 1), 0, missing)) if missing else rows
    blocks = [function(block) for block in torch.split(padded, size)]
    output = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
    return output[: len(rows)]


class RotaryTable(torch.nn.Module):
    """Batch-invariant rotary embeddings: cosines and sines are computed once per block of positions, and looked up.

    PyTorch computes the last elements of a thread's share without vector instructions, and so with another rounding.
    Some models (Gemma 3) have other frequencies in layers with a sliding window: they have a table for each kind.
    """

    _BLOCK = 1024

    def __init__(self, rotary: Any, x: torch.Tensor, kinds: Iterable[str | None]) -> None:
        super().__init__()
        self._rotary = rotary
        self._x = x
        none = torch.empty(0)
        # Kind -> cosines, sines; shape (positions, head size).
        self._tables: dict[str | None, tuple[torch.Tensor, torch.Tensor]] = dict.fromkeys(kinds, (none, none))

    def reserve(self, positions: int) -> None:
        """Compute the tables for this many positions, before a pass uses them."""
        for kind, tables in self._tables.items():
            while len(tables[0]) < positions:
                start = len(tables[0])
                block = torch.arange(start, start + self._BLOCK)
                new = (table[0] for table in self._computed(block[None], kind))
                tables = tuple(  # type: ignore[assignment]
                    torch.cat([before, table]) if start else table for before, table in zip(tables, new, strict=True)
                )
            self._tables[kind] = tables

    def is_exact(self) -> bool:
        """Whether the tables hold what the model computes, up to rounding. Raises what the model does if it has another
        signature.
        """
        self.reserve(1)
        positions = torch.tensor([[3, 1, 2]])
        return all(
            torch.allclose(own.float(), looked_up.float(), atol=1e-2)
            for kind in self._tables
            for own, looked_up in zip(self._computed(positions, kind), self(self._x, positions, kind), strict=True)
        )

    def _computed(self, positions: torch.Tensor, kind: str | None) -> tuple[torch.Tensor, torch.Tensor]:
        tables: tuple[torch.Tensor, torch.Tensor] = self._rotary(self._x, positions, *([] if kind is None else [kind]))
        return tables

    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        del x
        cosines, sines = self._tables[layer_type]
        return cosines[position_ids], sines[position_ids]


def rotary_table(model: Any) -> RotaryTable | None:
    """A table in place of a model's rotary embeddings; None if it has none."""
    backbone = text_model(model)
    rotary = getattr(backbone, "rotary_emb", None)
    if rotary is None:
        return None
    by_kind = "layer_type" in inspect.signature(rotary.forward).parameters
    kinds = set(backbone.config.layer_types) if by_kind else {None}
    table = RotaryTable(rotary, torch.empty(0, dtype=computing_dtype(model)), kinds)
    try:
        if table.is_exact():
            return table
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):  # another signature, other shapes
        pass
    raise ValueError("no table holds the rotary embeddings of this model")


def has_unknown_rotary(model: Any) -> bool:
    """Whether rotary embeddings cannot be replaced by a table, so that the model cannot be batch-invariant."""
    try:
        rotary_table(model)
    except ValueError:
        return True
    return False
