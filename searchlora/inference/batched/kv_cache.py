"""KV cache shared by all rows of a batch, written in place; rows have lengths of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache

from searchlora.cpu.backend import use_huge_pages

#: Columns are allocated in multiples of this.
_COLUMN_STEP = 64


class KVCache(Cache):  # type: ignore[misc]
    """A transformers cache of one tensor, shape (layers, 2, rows, key heads, columns, head size).

    `begin_pass` says where the next forward pass writes and how many columns it reads; the attention mask decides which
    columns a token sees.
    """

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[])
        self._layer_count = layers
        self._reserved = (0, 0)  # rows and columns to allocate as soon as the head sizes are known
        self._data: torch.Tensor | None = None
        self._rows = slice(0, 0)
        self._start: int | torch.Tensor = 0
        self.columns = 0  # that the pass reads
        self._views: list[tuple[torch.Tensor, ...]] = []  # of each layer, see `layer_views`

    def begin_pass(self, rows: slice, start: int | torch.Tensor, columns: int) -> None:
        """Set what the next forward pass writes and reads.

        Args:
            rows: The rows of the pass.
            start: Column of the first new token, one for all rows or one per row (shape (rows,)).
            columns: Number of columns that attention reads, from the first.
        """
        self._rows, self._start, self.columns = rows, start, columns
        self._views = []
        if self._data is not None:
            self._data = self._with_room(self._data, rows.stop, columns)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's new keys and values (rows, key heads, new, head size); return all columns of the pass."""
        data = self._allocated(key_states.shape[1], key_states.shape[3], key_states)
        read = []
        for part, states in enumerate((key_states, value_states)):
            target = data[layer_idx, part, self._rows]
            new = states.shape[2]
            if isinstance(self._start, int):
                target[:, :, self._start : self._start + new] = states
            elif new == 1:
                target[_arange(len(target), target), :, self._start] = states[:, :, 0]
            else:
                columns = self._start[:, None] + _arange(new, target)
                target[_arange(len(target), target)[:, None], :, columns] = states.transpose(1, 2)
            read.append(target[:, :, : self.columns])
        return read[0], read[1]

    def layer_views(self, layer: int, heads: int, size: int, like: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The keys and values of one layer in this pass, shape (rows, key heads, columns, head size), and the column of
        each row's first new token, shape (rows,): for a layer that writes its new keys and values in place.
        """
        if not self._views:
            window = self._allocated(heads, size, like)[:, :, self._rows, :, : self.columns]
            start = self._start
            starts = torch.full((window.shape[2],), start) if isinstance(start, int) else start
            self._views = [(*of_layer.unbind(), starts) for of_layer in window]
        return self._views[layer]

    def _allocated(self, heads: int, size: int, like: torch.Tensor) -> torch.Tensor:
        if self._data is None:
            empty = like.new_zeros(self._layer_count, 2, 0, heads, 0, size)
            self._data = self._with_room(empty, self._rows.stop, self.columns)
        return self._data

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
        if self._data is not None:
            had_rows, had_columns = self._data.shape[2], self._data.shape[4]
            if rows > had_rows:
                self._data = _resized(self._data, max(rows, min(2 * had_rows, tokens // columns)), columns)
            elif columns > had_columns:
                self._data = _resized(self._data, rows, columns)

    def clear_rows(self, rows: Sequence[int]) -> None:
        """Set rows to zero, by their index in the pass."""
        if self._data is not None:
            for row in rows:
                self._data[:, :, self._rows.start + row] = 0

    def move_row(self, source: int, target: int, length: int) -> None:
        assert self._data is not None
        self._data[:, :, target, :, :length] = self._data[:, :, source, :, :length]

    def copy_columns(self, row: int, *columns: slice) -> torch.Tensor:
        """A copy of columns of a row, concatenated; shape (layers, 2, key heads, columns, head size)."""
        assert self._data is not None
        return torch.cat([self._data[:, :, row, :, part] for part in columns], dim=3)

    def view_columns(self, row: int, count: int) -> torch.Tensor:
        """The first columns of a row, not copied; shape as that of `copy_columns`."""
        assert self._data is not None
        return self._data[:, :, row, :, :count]

    def paste_columns(self, row: int, columns: torch.Tensor) -> None:
        """Write the result of `copy_columns` to the beginning of a row."""
        length = columns.shape[3]
        if self._data is None:
            layers, _, heads, _, size = columns.shape
            self._data = columns.new_zeros(layers, 2, 0, heads, 0, size)
        self._data = self._with_room(self._data, row + 1, length)
        self._data[:, :, row, :, :length] = columns

    def _with_room(self, data: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """The data, with at least this many rows and columns."""
        if rows <= data.shape[2] and columns <= data.shape[4]:
            return data
        return _resized(
            data, max(rows, data.shape[2], self._reserved[0]), max(columns, data.shape[4], self._reserved[1])
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


def _arange(count: int, like: torch.Tensor) -> torch.Tensor:
    return torch.arange(count, device=like.device)
