"""Prefill: computes the KV cache of prompts, shared prefixes first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from searchlora.inference.batched.forward import Forward
from searchlora.inference.batched.kv_cache import KVCache
from searchlora.inference.batched.prefix_cache import PrefixCache
from searchlora.inference.scheduling.engine_core import Counts
from searchlora.inference.scheduling.requests import AnyModelRequest, Limits, TokenIds

#: Tokens of one chunk of a long prompt: about 0.1 s for a model of 135M parameters.
CHUNK = 256

#: Tokens of a pass from which a CPU computes no faster: more rows would only be padded to the longest.
_PASS = 512


@dataclass(frozen=True)
class ComputedPrefix:
    """The KV cache of the beginning of a long prompt, of which `computed` tokens did not come from the prefix cache."""

    columns: torch.Tensor
    computed: int


@dataclass(eq=False)
class Prompt:
    """A prompt and the adapter that computes it."""

    ids: TokenIds
    adapter: str | None  # name of the adapter; None is the bare base model
    slot: int
    keep_prefix: bool = False
    prefix: ComputedPrefix | None = None


class NonFinitePrompts(Exception):
    """Prompts, or prefixes of prompts, whose hidden states are not finite."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.prompts = prompts
        super().__init__(f"{len(prompts)} prompts have no finite hidden states")

    def among(self, prompts: Iterable[Prompt]) -> list[Prompt]:
        return [
            prompt
            for prompt in prompts
            if any(prompt.adapter == one.adapter and prompt.ids[: len(one.ids)] == one.ids for one in self.prompts)
        ]


@dataclass
class Prefiller:
    """Computes prompts with a model."""

    forward: Forward
    prefixes: PrefixCache
    limits: Limits
    counts: Counts

    def __post_init__(self) -> None:
        self.scratch = self.forward.new_cache()
        self.chunk = CHUNK
        self.pass_limits = replace(self.limits, pass_tokens=min(self.limits.pass_tokens, _PASS))

    def free_scratch(self) -> None:
        self.scratch = self.forward.new_cache()

    def prefill(self, prompts: Sequence[Prompt], cache: KVCache, first: int) -> torch.Tensor:
        """Compute prompts into the rows of a cache from `first` on; prompts of similar length are best neighbours.

        Returns the hidden state of each prompt's last token, shape (prompts, hidden size).
        """
        self.compute_shared_prefixes(prompts)
        starts = self.paste_prefixes(prompts, cache, first)
        hidden: list[torch.Tensor] = []
        for rows in self.passes([len(prompt.ids) - start for prompt, start in zip(prompts, starts, strict=True)]):
            hidden += self.forward_pass(
                [prompts[row] for row in rows], [starts[row] for row in rows], cache, first + rows.start
            )
        return torch.stack(hidden)

    def paste_prefixes(self, prompts: Sequence[Prompt], cache: KVCache, first: int) -> list[int]:
        """Write computed heads and cached prefixes into the rows of a cache from `first` on; return their lengths."""
        starts = [self._paste_prefix(prompt, cache, first + place) for place, prompt in enumerate(prompts)]
        self.counts.prompt_tokens += sum(len(prompt.ids) for prompt in prompts)
        self.counts.cached_prompt_tokens += sum(starts) - sum(
            prompt.prefix.computed for prompt in prompts if prompt.prefix
        )
        return starts

    def left(self, prompt: Prompt) -> int:
        """Number of tokens of a prompt that are in no cache."""
        computed = 0 if prompt.prefix is None else prompt.prefix.columns.shape[3]
        return len(prompt.ids) - max(computed, self.prefixes.match_length(prompt.adapter, prompt.ids))

    def left_of(self, request: AnyModelRequest) -> int:
        """`left` of a queued request, looked up once for each state of the cache."""
        changes = self.prefixes.changes
        if request.looked_up is None or request.looked_up[0] != changes:
            request.looked_up = (changes, self.prefixes.match_length(request.adapter, request.ids))
        return len(request.ids) - request.looked_up[1]

    def cached(self, prompt: Prompt) -> int:
        """Number of tokens of a prompt that were in the prefix cache before any of it was computed."""
        computed = 0 if prompt.prefix is None else prompt.prefix.computed
        return len(prompt.ids) - self.left(prompt) - computed

    def compute_shared_prefixes(self, prompts: Sequence[Prompt]) -> None:
        """Compute and cache the prefixes that these prompts share, unless they are cached or longer than a chunk.

        Raises `NonFinitePrompts` if hidden states of some prefixes are not finite.
        """
        rounds: list[list[Prompt]] = []
        for adapter, slot in dict.fromkeys((prompt.adapter, prompt.slot) for prompt in prompts):
            ids = [prompt.ids for prompt in prompts if prompt.adapter == adapter]
            for turn, prefixes in enumerate(self.prefixes.to_compute(adapter, ids)):
                rounds += [[] for _ in range(turn + 1 - len(rounds))]
                rounds[turn] += [Prompt(prefix, adapter, slot) for prefix in prefixes]
        for prefixes_of_round in rounds:
            # The prefix of a long prompt is cached with its chunks, and may have been evicted since.
            if short := [prefix for prefix in prefixes_of_round if self.left(prefix) <= self.chunk]:
                self._cache_prefixes(short)

    def _cache_prefixes(self, prefixes: Sequence[Prompt]) -> None:
        prefixes, cache = sorted(prefixes, key=self.left), self.scratch
        cache.reserve(len(prefixes), max(len(prefix.ids) for prefix in prefixes), self.limits.cache_tokens)
        starts = [self._paste_prefix(prefix, cache, row) for row, prefix in enumerate(prefixes)]
        for rows in self.passes([len(prefix.ids) - start for prefix, start in zip(prefixes, starts, strict=True)]):
            self.forward_pass([prefixes[row] for row in rows], [starts[row] for row in rows], cache, rows.start)
        for row, prefix in enumerate(prefixes):
            self.prefixes.add_copy(prefix.adapter, prefix.ids, partial(cache.copy_columns, row))

    def _paste_prefix(self, prompt: Prompt, cache: KVCache, row: int) -> int:
        length, columns = self.prefixes.longest_match(prompt.adapter, prompt.ids)
        if prompt.prefix is not None and prompt.prefix.columns.shape[3] >= length:
            columns = prompt.prefix.columns
            length = columns.shape[3]
        if columns is not None:
            cache.paste_columns(row, columns)
        return length

    def passes(self, lengths: Sequence[int]) -> Iterator[range]:
        """Adjacent rows with so many tokens, as many as one forward pass may hold."""
        start, longest = 0, 0
        for row, length in enumerate(lengths):
            longest = max(longest, length)
            if row > start and not self.pass_limits.pass_holds(row + 1 - start, longest):
                yield range(start, row)
                start, longest = row, length
        if lengths:
            yield range(start, len(lengths))

    def forward_pass(
        self, prompts: Sequence[Prompt], starts: Sequence[int], cache: KVCache, first: int
    ) -> list[torch.Tensor]:
        """Compute prompts from their columns `starts` on; the hidden state of each one's last token."""
        left = [prompt.ids[start:] for prompt, start in zip(prompts, starts, strict=True)]
        width = max(map(len, left))
        ids = torch.zeros(len(left), width, dtype=torch.long)
        for row, tokens in enumerate(left):
            ids[row, : len(tokens)] = torch.tensor(tokens)
        begin = torch.tensor(starts)
        positions = begin[:, None] + torch.arange(width)
        columns = max(starts) + width
        visible = torch.arange(columns) <= positions[:, :, None]
        start = starts[0] if len(set(starts)) == 1 else begin
        cache.begin_pass(slice(first, first + len(left)), start, columns)
        # Positions of the padding after a prompt could exceed the model's context.
        last = torch.tensor([len(prompt.ids) - 1 for prompt in prompts])
        slots = [prompt.slot for prompt in prompts]
        hidden = self.forward.hidden_states(ids, positions.minimum(last[:, None]), visible, slots, cache)
        self.check_finite(prompts, hidden, cache)
        return [hidden[row, len(tokens) - 1] for row, tokens in enumerate(left)]

    def check_finite(self, prompts: Sequence[Prompt], hidden: torch.Tensor, cache: KVCache) -> None:
        """Raise `NonFinitePrompts` for prompts whose hidden states (prompts, new, size) are not finite, after clearing
        their rows in the cache.
        """
        finite = hidden.isfinite().flatten(1).all(1)
        if not bool(finite.all()):
            rows = [row for row, is_finite in enumerate(finite.tolist()) if not is_finite]
            # A masked column still counts as zero times its content, and zero times NaN is NaN.
            cache.clear_rows(rows)
            raise NonFinitePrompts([prompts[row] for row in rows])
