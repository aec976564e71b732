"""Keys and values of all rows under way, written in place; nothing is put together anew as rows grow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache

from searchlora.inference.batched.native.huge_pages import in_large_pages

#: Columns are made by so many at once.
_STEP = 64


class KeyValues(Cache):  # type: ignore[misc]
    """A transformers cache whose rows each have a length of their own.

    Before a forward pass `block` says where it writes and how far it looks; what each token sees is the mask's affair.

    Args:
        layers: Of the model.
    """

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[])
        self._count = layers
        self._least = (0, 0)  # rows and columns that there is room for as soon as the sizes of heads are known
        self._all: torch.Tensor | None = None  # (layers, 2, rows, key heads, columns, size)
        self._rows = slice(0, 0)
        self._start: int | torch.Tensor = 0
        self._seen = 0
        self._laid: list[tuple[torch.Tensor, ...]] = []  # of each layer, what `of_layer` gives

    def block(self, rows: slice, start: int | torch.Tensor, seen: int) -> None:
        """What the next forward pass computes.

        Args:
            rows: Which rows.
            start: The column of the first new token, of all rows or (shape: (rows,)) of each.
            seen: Columns that are looked at, from the first.
        """
        self._rows, self._start, self._seen = rows, start, seen
        self._laid = []
        if self._all is not None:
            self._all = self._grown(self._all, rows.stop, seen)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's new keys and values (rows, key heads, new, size); give all that are looked at."""
        every = self._made(key_states.shape[1], key_states.shape[3], key_states)
        found = []
        for place, states in enumerate((key_states, value_states)):
            kept = every[layer_idx, place, self._rows]
            new = states.shape[2]
            if isinstance(self._start, int):
                kept[:, :, self._start : self._start + new] = states
            elif new == 1:
                kept[_numbers(len(kept), kept), :, self._start] = states[:, :, 0]
            else:
                columns = self._start[:, None] + _numbers(new, kept)
                kept[_numbers(len(kept), kept)[:, None], :, columns] = states.transpose(1, 2)
            found.append(kept[:, :, : self._seen])
        return found[0], found[1]

    def of_layer(self, layer: int, heads: int, size: int, like: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """For a layer that writes its new keys and values itself, in place.

        Returns:
            Keys and values that are looked at, shape (rows, key heads, columns, size), and the column of each row's
            first new token, shape (rows,).
        """
        if not self._laid:
            looked_at = self._made(heads, size, like)[:, :, self._rows, :, : self._seen]
            start = self._start
            starts = torch.full((looked_at.shape[2],), start) if isinstance(start, int) else start
            self._laid = [(*of_layer.unbind(), starts) for of_layer in looked_at]
        return self._laid[layer]

    def _made(self, heads: int, size: int, like: torch.Tensor) -> torch.Tensor:
        """All of it, once it is known how large the heads are."""
        if self._all is None:
            self._all = self._grown(like.new_zeros(self._count, 2, 0, heads, 0, size), self._rows.stop, self._seen)
        return self._all

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Nothing is asked by length: positions and masks are given."""
        del layer_idx
        return 0

    def make_room(self, rows: int, columns: int, tokens: int) -> None:
        """Room for rows and columns; all that is in use must lie within, what lies beyond may be given back.

        Args:
            tokens: Where rows are few, room for more is made at once, up to so many rows times columns.
        """
        columns = -(-columns // _STEP) * _STEP
        self._least = (rows, columns)
        self._laid = []
        if self._all is not None:
            had_rows, had_columns = self._all.shape[2], self._all.shape[4]
            if rows > had_rows:
                self._all = _copied(self._all, max(rows, min(2 * had_rows, tokens // columns)), columns)
            elif columns > had_columns:
                self._all = _copied(self._all, rows, columns)

    def wipe(self, places: Sequence[int]) -> None:
        """Empty whole rows, by their places in the block."""
        if self._all is not None:
            for place in places:
                self._all[:, :, self._rows.start + place] = 0

    def move(self, source: int, target: int, length: int) -> None:
        """Let a row stand in the place of another."""
        assert self._all is not None
        self._all[:, :, target, :, :length] = self._all[:, :, source, :, :length]

    def taken(self, row: int, *columns: slice) -> torch.Tensor:
        """A copy of columns of a row, side by side; shape (layers, 2, key heads, columns, size)."""
        assert self._all is not None
        return torch.cat([self._all[:, :, row, :, each] for each in columns], dim=3)

    def give(self, row: int, columns: torch.Tensor) -> None:
        """Put what `taken` gave at the beginning of a row."""
        length = columns.shape[3]
        if self._all is None:
            layers, _, heads, _, size = columns.shape
            self._all = columns.new_zeros(layers, 2, 0, heads, 0, size)
        self._all = self._grown(self._all, row + 1, length)
        self._all[:, :, row, :, :length] = columns

    def _grown(self, now: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """With room for so many rows and columns at least, beside what there is."""
        if rows <= now.shape[2] and columns <= now.shape[4]:
            return now
        return _copied(now, max(rows, now.shape[2], self._least[0]), max(columns, now.shape[4], self._least[1]))


def _copied(now: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """With so many rows and columns, what was there in its place."""
    layers, two, had_rows, heads, had_columns, size = now.shape
    new = now.new_empty(layers, two, rows, heads, columns, size)
    in_large_pages([new], empty=True)
    new.zero_()
    kept_rows, kept_columns = min(rows, had_rows), min(columns, had_columns)
    new[:, :, :kept_rows, :, :kept_columns] = now[:, :, :kept_rows, :, :kept_columns]
    return new


def _numbers(count: int, like: torch.Tensor) -> torch.Tensor:
    return torch.arange(count, device=like.device)
