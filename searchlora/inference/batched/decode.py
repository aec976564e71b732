"""Decode: rows that generate one token per step; rows that end leave the batch, new ones join between steps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from searchlora.inference.batched.kv_cache import KVCache
from searchlora.inference.batched.prefill import Prefiller, Prompt
from searchlora.inference.decoding import AnswerState, append_tokens
from searchlora.inference.out_of_memory import is_out_of_memory, request_error


@dataclass(eq=False)
class BatchRow(AnswerState):
    """An answer with a row of the KV cache."""

    prompt: Prompt = field(kw_only=True)

    @property
    def length(self) -> int:
        """Columns of the KV cache in use: the prompt and the generated tokens but the last."""
        return len(self.prompt.ids) + max(len(self.ids) - 1, 0)

    @property
    def max_length(self) -> int:
        return self.request.max_tokens


class DecodeBatch:
    """The generating rows, in the order of their KV cache."""

    def __init__(self, prefiller: Prefiller, stop_id: int) -> None:
        self.rows: list[BatchRow] = []
        self.max_rows = sys.maxsize
        self._prefiller = prefiller
        self._forward = prefiller.forward
        self._stop_id = stop_id
        self._cache: KVCache = prefiller.forward.new_cache()

    def add(self, rows: Sequence[BatchRow]) -> None:
        """Prefill new rows and generate the first token of each.

        Rows of one adapter are placed together, as `LoraMapping` prefers them, those with fewer tokens to compute
        first. After an error no new row has joined, and the others are unchanged.
        """
        rows = sorted(rows, key=lambda row: (row.prompt.slot, self._prefiller.left(row.prompt)))
        for row in rows:
            row.request.cached_tokens = self._prefiller.cached(row.prompt)
        joined = [*self.rows, *rows]
        self._cache.reserve(len(joined), max(row.max_length for row in joined), self._prefiller.limits.cache_tokens)
        hidden = self._prefiller.prefill([row.prompt for row in rows], self._cache, len(self.rows))
        append_tokens(rows, self._forward.logits(hidden), self._stop_id)
        self.rows = joined

    def step(self) -> list[BatchRow]:
        """Generate one more token of every row; returns the rows that did.

        A pass that runs out of memory is computed again with half of its rows: it has only written keys and values,
        which it writes again. A single row that does not fit gets an error. So do rows whose hidden states are not
        finite, as their logits are not finite either.
        """
        generated: list[BatchRow] = []
        start = 0
        while start < len(self.rows):
            rows = self.rows[start : start + self.max_rows]
            try:
                logits = self._logits(rows, start)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(rows) > 1:
                    self.max_rows = len(rows) // 2
                    continue
                rows[0].error = request_error(error)
            else:
                append_tokens(rows, logits, self._stop_id)
                # A masked column still counts as zero times its content, and zero times NaN is NaN.
                self._cache.clear_rows([place for place, row in enumerate(rows) if row.error is not None])
                generated += rows
            start += len(rows)
        return generated

    def _logits(self, rows: Sequence[BatchRow], start: int) -> torch.Tensor:
        """Logits (rows, vocabulary) of the next token of rows that are adjacent in the cache, from `start` on."""
        forward, lengths = self._forward, [row.length for row in rows]
        columns, starts = max(lengths) + 1, torch.tensor(lengths)
        visible = torch.arange(columns) <= starts[:, None, None]
        column = lengths[0] if len(set(lengths)) == 1 else starts
        self._cache.begin_pass(slice(start, start + len(rows)), column, columns)
        hidden = forward.hidden_states(
            torch.tensor([row.ids[-1:] for row in rows]),
            starts[:, None],
            visible,
            [row.prompt.slot for row in rows],
            self._cache,
        )
        return forward.logits(hidden[:, 0])

    def remove(self, is_done: Callable[[BatchRow], bool]) -> list[BatchRow]:
        """Remove the rows that are done; the last row of the cache takes the place of a removed one."""
        removed = []
        for place in range(len(self.rows) - 1, -1, -1):
            if is_done(self.rows[place]):
                removed.append(self.rows[place])
                last = self.rows[place] = self.rows[-1]  # in this order: another thread may copy the list
                self.rows.pop()
                if place < len(self.rows):
                    self._cache.move_row(len(self.rows), place, last.length)
        return removed[::-1]

    def copy_columns(self, row: BatchRow, columns: slice) -> torch.Tensor:
        return self._cache.copy_columns(self.rows.index(row), columns)

    def clear(self) -> None:
        self.rows = []
        self._cache = self._forward.new_cache()
