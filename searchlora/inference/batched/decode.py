"""Rows that write: each takes its next token at every step, rows that end leave, and new ones enter between steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from searchlora.errors import EngineError
from searchlora.inference.batched.forward import NotFinite
from searchlora.inference.batched.kv_cache import KeyValues
from searchlora.inference.batched.prefill import Prompt, Reader
from searchlora.inference.constrained import admitted, cannot_go_on


@dataclass(eq=False)
class Row:
    """One answer being written.

    Attributes:
        most: Tokens after which it is cut.
        matcher: What its grammar admits next; None: anything.
        endless: Goes on after the token that ends an answer, up to `most`; for measuring speed.
        ids: The tokens so far, the stop token among them.
        error: Why it cannot go on.
    """

    prompt: Prompt
    most: int
    matcher: Any | None = None
    endless: bool = False
    ids: list[int] = field(default_factory=list)
    error: EngineError | None = None
    stopped: bool = False

    @property
    def ended(self) -> bool:
        """Whether nothing more is written."""
        return self.stopped or self.error is not None or len(self.ids) >= self.most

    @property
    def length(self) -> int:
        """Tokens that are read: the prompt and what is written but for the last token."""
        return len(self.prompt.ids) + max(len(self.ids) - 1, 0)

    @property
    def longest(self) -> int:
        """Tokens that it may come to."""
        return len(self.prompt.ids) + self.most


class Writer:
    """The rows under way, and their keys and values.

    Args:
        stop_id: The token that ends an answer.
    """

    def __init__(self, reader: Reader, stop_id: int) -> None:
        self.rows: list[Row] = []
        self._reader = reader
        self._forward = reader.forward
        self._stop_id = stop_id
        self._cache: KeyValues = reader.forward.key_values()

    def enter(self, rows: Sequence[Row]) -> None:
        """Read the prompts of new rows, and let each write its first token.

        Where no row is under way, rows with one adapter come to lie together, as `routing` likes them. When it fails,
        no new row has entered, and the others are as they were.
        """
        if not self.rows:
            rows = sorted(rows, key=lambda row: row.prompt.slot)
        every = [*self.rows, *rows]
        self._cache.make_room(len(every), max(row.longest for row in every), self._reader.limits.tokens)
        hidden = self._reader.read([row.prompt for row in rows], self._cache, len(self.rows))
        self._write(rows, hidden)
        self.rows = every

    def step(self) -> bool:
        """Let every row write one more token.

        Returns:
            False where rows have come to no finite numbers; these have an error now, and the others wrote nothing.
        """
        lengths = torch.tensor([row.length for row in self.rows])
        seen = torch.arange(int(lengths.max()) + 1) <= lengths[:, None, None]
        start: Any = int(lengths[0]) if bool((lengths == lengths[0]).all()) else lengths.to(self._forward.device)
        self._cache.block(slice(0, len(self.rows)), start, seen.shape[-1])
        try:
            hidden = self._forward.hidden(
                torch.tensor([row.ids[-1:] for row in self.rows]),
                lengths[:, None],
                seen,
                [row.prompt.slot for row in self.rows],
                self._cache,
            )
        except NotFinite as error:
            for row in (self.rows[place] for place in error.rows):
                row.error = error.of(row.prompt.adapter)
            return False
        self._write(self.rows, hidden[:, 0])
        return True

    def leave(self, done: Callable[[Row], bool]) -> list[Row]:
        """Take out the rows that are done; the last row takes the place of one that leaves."""
        found = []
        for place in range(len(self.rows) - 1, -1, -1):
            if done(self.rows[place]):
                found.append(self.rows[place])
                last = self.rows.pop()
                if place < len(self.rows):
                    self.rows[place] = last
                    self._cache.move(len(self.rows), place, last.length)
        return found[::-1]

    def drop(self) -> None:
        """Forget all rows, after a pass that failed in the middle."""
        self.rows = []
        self._cache = self._forward.key_values()

    def _write(self, rows: Sequence[Row], hidden: torch.Tensor) -> None:
        """The likeliest token that each row's grammar admits, behind hidden states (rows, size)."""
        logits = self._forward.logits(hidden)
        for place, row in enumerate(rows):
            if row.matcher is not None:
                logits[place] = admitted(row.matcher, logits[place])
        for row, token in zip(rows, likeliest(logits).tolist(), strict=True):
            row.ids.append(token)
            row.stopped = token == self._stop_id and not row.endless
            if row.matcher is not None and not row.stopped:
                row.matcher.consume_token(token)
            if row.matcher is not None and row.matcher.is_error():
                row.error = cannot_go_on(row.matcher)


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The place of the largest number of each row, the first of several; (rows, vocabulary) -> (rows,).

    Of each block of the vocabulary first: `argmax` over it all takes several times as long on a CPU.
    """
    block = math.gcd(logits.shape[1], 256)
    blocks = logits.view(len(logits), -1, block)
    best = blocks.amax(-1).argmax(-1)
    within = blocks[torch.arange(len(logits), device=logits.device), best].argmax(-1)
    return best * block + within
