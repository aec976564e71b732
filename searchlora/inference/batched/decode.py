"""Decode: rows that generate one token per step; rows that end leave the batch, new ones join between steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from searchlora.errors import EngineError
from searchlora.inference.batched.forward import NonFiniteOutput
from searchlora.inference.batched.kv_cache import KVCache
from searchlora.inference.batched.prefill import Prefiller, Prompt
from searchlora.inference.constrained import Matcher, grammar_error, mask_logits
from searchlora.inference.engine import non_finite_error


@dataclass(eq=False)
class Row:
    """One answer that is being generated.

    Attributes:
        prompt: What it answers.
        max_new_tokens: Maximum number of generated tokens.
        matcher: State of the grammar; None means unconstrained.
        ignore_stop: Generate on after the stop token, up to `max_new_tokens`.
        ids: The tokens so far, the stop token included.
        error: Why it cannot go on.
    """

    prompt: Prompt
    max_new_tokens: int
    matcher: Matcher | None = None
    ignore_stop: bool = False
    ids: list[int] = field(default_factory=list)
    error: EngineError | None = None
    stopped: bool = False

    @property
    def ended(self) -> bool:
        """Whether nothing more is generated."""
        return self.stopped or self.error is not None or len(self.ids) >= self.max_new_tokens

    @property
    def length(self) -> int:
        """Columns of the KV cache in use: the prompt and the generated tokens but the last."""
        return len(self.prompt.ids) + max(len(self.ids) - 1, 0)

    @property
    def max_length(self) -> int:
        """Maximum length of prompt and answer."""
        return len(self.prompt.ids) + self.max_new_tokens


class DecodeBatch:
    """The generating rows and their KV cache.

    Args:
        prefiller: Computes the prompts of new rows.
        stop_id: The token that ends an answer.

    Attributes:
        rows: The rows, in the order of the KV cache.
    """

    def __init__(self, prefiller: Prefiller, stop_id: int) -> None:
        self.rows: list[Row] = []
        self._prefiller = prefiller
        self._forward = prefiller.forward
        self._stop_id = stop_id
        self._cache: KVCache = prefiller.forward.new_cache()

    def add(self, rows: Sequence[Row]) -> None:
        """Prefill new rows and generate the first token of each.

        Rows of one adapter are placed together if no row is generating yet, as `lora_mapping` prefers them. After an
        error no new row has joined, and the others are unchanged.
        """
        if not self.rows:
            rows = sorted(rows, key=lambda row: row.prompt.slot)
        joined = [*self.rows, *rows]
        self._cache.reserve(len(joined), max(row.max_length for row in joined), self._prefiller.limits.cache_tokens)
        hidden = self._prefiller.prefill([row.prompt for row in rows], self._cache, len(self.rows))
        self._append_tokens(rows, hidden)
        self.rows = joined

    def step(self) -> bool:
        """Generate one more token of every row.

        Returns:
            False if hidden states of some rows are not finite; these rows have an error then, and the others generated
            nothing.
        """
        lengths = torch.tensor([row.length for row in self.rows])
        visible = torch.arange(int(lengths.max()) + 1) <= lengths[:, None, None]
        start = int(lengths[0]) if bool((lengths == lengths[0]).all()) else lengths.to(self._forward.device)
        self._cache.begin_pass(slice(0, len(self.rows)), start, visible.shape[-1])
        try:
            hidden = self._forward.hidden_states(
                torch.tensor([row.ids[-1:] for row in self.rows]),
                lengths[:, None],
                visible,
                [row.prompt.slot for row in self.rows],
                self._cache,
            )
        except NonFiniteOutput as error:
            for row in (self.rows[place] for place in error.rows):
                row.error = non_finite_error(row.prompt.adapter)
            return False
        self._append_tokens(self.rows, hidden[:, 0])
        return True

    def remove(self, is_done: Callable[[Row], bool]) -> list[Row]:
        """Remove the rows that are done; the last row of the cache takes the place of a removed one."""
        removed = []
        for place in range(len(self.rows) - 1, -1, -1):
            if is_done(self.rows[place]):
                removed.append(self.rows[place])
                last = self.rows.pop()
                if place < len(self.rows):
                    self.rows[place] = last
                    self._cache.move_row(len(self.rows), place, last.length)
        return removed[::-1]

    def clear(self) -> None:
        """Forget all rows, after a pass that failed in the middle."""
        self.rows = []
        self._cache = self._forward.new_cache()

    def _append_tokens(self, rows: Sequence[Row], hidden: torch.Tensor) -> None:
        """Append the most likely token that each row's grammar allows, given hidden states (rows, hidden size)."""
        logits = self._forward.logits(hidden)
        for place, row in enumerate(rows):
            if row.matcher is not None:
                logits[place] = mask_logits(row.matcher, logits[place])
        best = argmax(logits)
        finite = logits.gather(1, best[:, None])[:, 0].isfinite()  # NaN counts as the largest number
        for row, token, is_finite in zip(rows, best.tolist(), finite.tolist(), strict=True):
            row.ids.append(token)
            if not is_finite:
                row.error = non_finite_error(row.prompt.adapter)
                continue
            row.stopped = token == self._stop_id and not row.ignore_stop
            if row.matcher is not None and not row.stopped:
                row.matcher.consume_token(token)
            if row.matcher is not None and row.matcher.is_error():
                row.error = grammar_error(row.matcher)


def argmax(logits: torch.Tensor) -> torch.Tensor:
    """Index of the largest number of each row, the first of equal ones; (rows, vocabulary) -> (rows,).

    It is found per block of the vocabulary first: `torch.argmax` over the whole takes several times as long on a CPU.
    """
    block = math.gcd(logits.shape[1], 256)
    blocks = logits.view(len(logits), -1, block)
    best = blocks.amax(-1).argmax(-1)
    in_block = blocks[torch.arange(len(logits), device=logits.device), best].argmax(-1)
    return best * block + in_block
