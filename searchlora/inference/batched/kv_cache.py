"""KV cache shared by all rows of a batch, written in place; rows have lengths of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache

from searchlora.cpu.backend import use_huge_pages

#: Columns are allocated in multiples of this.
_COLUMN_STEP = 64

#: Parts of the memory, of some layers each: a cache grows part by part, so that old and new are never there in whole.
_PARTS = 8


class KVCache(Cache):  # type: ignore[misc]
    """A transformers cache, shape (layers, 2, rows, key heads, columns, head size), as one tensor for some layers.

    `begin_pass` says where the next forward pass writes and how many columns it reads; the attention mask decides which
    columns a token sees.
    """

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[])
        self._layer_count = layers
        self._reserved = (0, 0)  # rows and columns to allocate as soon as the head sizes are known
        self._per_part = max(1, -(-layers // _PARTS))
        self._parts: list[torch.Tensor] = []  # of `_per_part` layers each; not allocated until head sizes are known
        self._rows = slice(0, 0)
        self._start: int | torch.Tensor = 0
        self.columns = 0  # that the pass reads
        self._views: list[tuple[torch.Tensor, ...]] = []  # of each layer, see `layer_views`

    def begin_pass(self, rows: slice, start: int | torch.Tensor, columns: int) -> None:
        """Set what the next forward pass writes and reads.

        `start`: Column of the first new token, one for all rows or one per row (shape (rows,)).
        """
        self._rows, self._start, self.columns = rows, start, columns
        self._views = []
        self._make_room(rows.stop, columns)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's new keys and values (rows, key heads, new, head size); return all columns of the pass."""
        self._allocate(key_states.shape[1], key_states.shape[3], key_states)
        part, layer = divmod(layer_idx, self._per_part)
        read = []
        for kind, states in enumerate((key_states, value_states)):
            target = self._parts[part][layer, kind, self._rows]
            new = states.shape[2]
            if isinstance(self._start, int):
                target[:, :, self._start : self._start + new] = states
            elif new == 1:
                target[torch.arange(len(target)), :, self._start] = states[:, :, 0]
            else:
                columns = self._start[:, None] + torch.arange(new)
                target[torch.arange(len(target))[:, None], :, columns] = states.transpose(1, 2)
            read.append(target[:, :, : self.columns])
        return read[0], read[1]

    def layer_views(self, layer: int, heads: int, size: int, like: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The keys and values of one layer in this pass, shape (rows, key heads, columns, head size), and the column of
        each row's first new token, shape (rows,): for a layer that writes its new keys and values in place.
        """
        if not self._views:
            self._allocate(heads, size, like)
            windows = [layer[:, self._rows, :, : self.columns] for part in self._parts for layer in part]
            start = self._start
            starts = torch.full((windows[0].shape[1],), start) if isinstance(start, int) else start
            self._views = [(*window.unbind(), starts) for window in windows]
        return self._views[layer]

    def _allocate(self, heads: int, size: int, like: torch.Tensor, rows: int = 0, columns: int = 0) -> None:
        """Allocate the memory of the pass, or more, unless there is some."""
        if not self._parts:
            layers = [
                min(self._per_part, self._layer_count - start) for start in range(0, self._layer_count, self._per_part)
            ]
            self._parts = [like.new_zeros(count, 2, 0, heads, 0, size) for count in layers]
            self._make_room(max(rows, self._rows.stop), max(columns, self.columns))

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """0: positions and masks are passed explicitly, nothing is derived from a length."""
        del layer_idx
        return 0

    def reserve(self, rows: int, columns: int, tokens: int) -> None:
        """Make room for rows and columns. Memory beyond them may be freed, so rows in use must lie within. More rows
        are allocated at once up to a budget of `tokens`, rows times columns.
        """
        columns = -(-columns // _COLUMN_STEP) * _COLUMN_STEP
        self._reserved = (rows, columns)
        self._views = []
        for place, part in enumerate(self._parts):
            had_rows, had_columns = part.shape[2], part.shape[4]
            if rows > had_rows:
                self._parts[place] = _resized(part, max(rows, min(2 * had_rows, tokens // columns)), columns)
            elif columns > had_columns:
                self._parts[place] = _resized(part, rows, columns)

    def clear_rows(self, rows: Sequence[int]) -> None:
        """Set rows to zero, by their index in the pass."""
        for part in self._parts:
            for row in rows:
                part[:, :, self._rows.start + row] = 0

    def move_row(self, source: int, target: int, length: int) -> None:
        for part in self._parts:
            part[:, :, target, :, :length] = part[:, :, source, :, :length]

    def copy_columns(self, row: int, *columns: slice) -> torch.Tensor:
        """A copy of columns of a row, concatenated; shape (layers, 2, key heads, columns, head size)."""
        parts = [[part[:, :, row, :, selected] for selected in columns] for part in self._parts]
        return torch.cat([views[0] if len(views) == 1 else torch.cat(views, dim=3) for views in parts])

    def paste_columns(self, row: int, columns: torch.Tensor) -> None:
        """Write the result of `copy_columns` to the beginning of a row."""
        length = columns.shape[3]
        self._allocate(columns.shape[2], columns.shape[4], columns, row + 1, length)
        self._make_room(row + 1, length)
        for part, of_part in zip(self._parts, torch.split(columns, self._per_part), strict=True):
            part[:, :, row, :, :length] = of_part

    def _make_room(self, rows: int, columns: int) -> None:
        """Grow to at least this many rows and columns, if there is any memory yet."""
        for place, part in enumerate(self._parts):
            had_rows, had_columns = part.shape[2], part.shape[4]
            if rows > had_rows or columns > had_columns:
                reserved_rows, reserved_columns = self._reserved
                self._parts[place] = _resized(
                    part, max(rows, had_rows, reserved_rows), max(columns, had_columns, reserved_columns)
                )


def _resized(data: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """A copy with this many rows and columns; new ones are zero."""
    layers, two, had_rows, heads, had_columns, size = data.shape
    new = data.new_empty(layers, two, rows, heads, columns, size)
    use_huge_pages([new], is_empty=True)
    new.zero_()
    kept_rows, kept_columns = min(rows, had_rows), min(columns, had_columns)
    new[:, :, :kept_rows, :, :kept_columns] = data[:, :, :kept_rows, :, :kept_columns]
    return new
