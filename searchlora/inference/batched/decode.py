"""Decode: rows that generate one token per step; rows that end leave the batch, new ones join between steps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from searchlora.errors import EngineError
from searchlora.inference.batched.forward import NonFiniteOutput
from searchlora.inference.batched.kv_cache import KVCache
from searchlora.inference.batched.prefill import Prefiller, Prompt
from searchlora.inference.decoding import AnswerState, append_tokens
from searchlora.inference.engine import non_finite_error
from searchlora.inference.out_of_memory import is_out_of_memory


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
    """The generating rows, in the order of their KV cache.

    Attributes:
        max_rows: Rows of one pass; halved whenever memory runs out in a pass.
    """

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
        joined = [*self.rows, *rows]
        self._cache.reserve(len(joined), max(row.max_length for row in joined), self._prefiller.limits.cache_tokens)
        hidden = self._prefiller.prefill([row.prompt for row in rows], self._cache, len(self.rows))
        self._append(rows, self._forward.logits(hidden))
        self.rows = joined

    def step(self) -> list[BatchRow]:
        """Generate one more token of every row; returns the rows that did.

        A pass that runs out of memory is computed again with half of its rows: it has only written keys and values,
        which it writes again. A single row that does not fit gets an error. If hidden states of some rows of a pass
        are not finite, these rows have an error then, and the others of the pass generated nothing.
        """
        generated: list[BatchRow] = []
        start = 0
        while start < len(self.rows):
            rows = self.rows[start : start + self.max_rows]
            try:
                logits = self._logits(rows, start)
            except NonFiniteOutput as error:
                for row in (rows[place] for place in error.rows):
                    row.error = non_finite_error(row.prompt.adapter)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(rows) > 1:
                    self.max_rows = len(rows) // 2
                    continue
                rows[0].error = EngineError(f"one row does not fit into memory ({error})", fix="Ask for less.")
            else:
                self._append(rows, logits)
                generated += rows
            start += len(rows)
        return generated

    def _logits(self, rows: Sequence[BatchRow], start: int) -> torch.Tensor:
        """Logits (rows, vocabulary) of the next token of rows that are adjacent in the cache, from `start` on."""
        lengths = torch.tensor([row.length for row in rows])
        visible = torch.arange(int(lengths.max()) + 1) <= lengths[:, None, None]
        column = int(lengths[0]) if bool((lengths == lengths[0]).all()) else lengths.to(self._forward.device)
        self._cache.begin_pass(slice(start, start + len(rows)), column, visible.shape[-1])
        hidden = self._forward.hidden_states(
            torch.tensor([row.ids[-1:] for row in rows]),
            lengths[:, None],
            visible,
            [row.prompt.slot for row in rows],
            self._cache,
        )
        return self._forward.logits(hidden[:, 0])

    def _append(self, rows: Sequence[BatchRow], logits: torch.Tensor) -> None:
        """Choose the next token of each row. Unlike a forward pass, this cannot be repeated: grammars have moved on."""
        try:
            append_tokens(rows, logits, self._stop_id)
        except Exception as error:
            if is_out_of_memory(error):
                raise EngineError(f"memory ran out while tokens were chosen ({error})") from error
            raise

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
