"""Reading prompts: shared beginnings first, then what is left of each prompt, into rows of keys and values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from searchlora.inference.batched.forward import Forward, NotFinite
from searchlora.inference.batched.kv_cache import KeyValues
from searchlora.inference.batched.prefix_cache import Ids, Prefixes
from searchlora.inference.scheduling.engine_core import Counts
from searchlora.inference.scheduling.requests import Limits


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt, and the adapter that reads it: its name, and the slot that it is in.

    Attributes:
        keep_prefix: It comes once more soon.
    """

    ids: Ids
    adapter: str | None
    slot: int
    keep_prefix: bool = False


class Spoiled(Exception):
    """Prompts, or beginnings of some, that are read as no finite numbers."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.prompts = prompts
        super().__init__(f"{len(prompts)} prompts are read as no finite numbers")

    def among(self, prompts: Iterable[Prompt]) -> list[Prompt]:
        """Those that begin so."""
        return [each for each in prompts if any(_begins_with(each, spoiled) for spoiled in self.prompts)]


def _begins_with(prompt: Prompt, other: Prompt) -> bool:
    return prompt.adapter == other.adapter and prompt.ids[: len(other.ids)] == other.ids


@dataclass
class Reader:
    """Reads prompts with a model.

    Attributes:
        scratch: Keys and values for what is read and then not written on, such as prompts whose answers are scored.
    """

    forward: Forward
    prefixes: Prefixes
    limits: Limits
    counts: Counts

    def __post_init__(self) -> None:
        self.scratch = self.forward.key_values()

    def read(self, prompts: Sequence[Prompt], cache: KeyValues, first: int) -> torch.Tensor:
        """Read prompts into the rows of a cache from `first` on; the hidden state behind each, shape (n, size)."""
        self.share(prompts)
        starts = self.begin(prompts, cache, first)
        hidden: list[torch.Tensor] = []
        for rows in self._blocks([len(p.ids) - start for p, start in zip(prompts, starts, strict=True)]):
            hidden += self._block(
                [prompts[row] for row in rows], [starts[row] for row in rows], cache, first + rows.start
            )
        return torch.stack(hidden)

    def begin(self, prompts: Sequence[Prompt], cache: KeyValues, first: int) -> list[int]:
        """Put what is kept of prompts' beginnings into the rows of a cache from `first` on; how many tokens of each."""
        starts = [self._begin(prompt, cache, first + place) for place, prompt in enumerate(prompts)]
        self.counts.prompt_tokens += sum(len(prompt.ids) for prompt in prompts)
        self.counts.prompt_tokens_reused += sum(starts)
        return starts

    def share(self, prompts: Sequence[Prompt]) -> None:
        """Compute and keep the beginnings that these prompts share, where they are not kept yet."""
        rounds: list[list[Prompt]] = []
        for adapter, slot in dict.fromkeys((prompt.adapter, prompt.slot) for prompt in prompts):
            of_adapter = [prompt.ids for prompt in prompts if prompt.adapter == adapter]
            for turn, found in enumerate(self.prefixes.wanted(adapter, of_adapter)):
                rounds += [[] for _ in range(turn + 1 - len(rounds))]
                rounds[turn] += [Prompt(ids, adapter, slot) for ids in found]
        for beginnings in rounds:
            self._keep(beginnings)

    def _keep(self, beginnings: Sequence[Prompt]) -> None:
        cache = self.scratch
        cache.make_room(len(beginnings), max(len(each.ids) for each in beginnings), self.limits.tokens)
        starts = [self._begin(each, cache, row) for row, each in enumerate(beginnings)]
        for rows in self._blocks([len(each.ids) - start for each, start in zip(beginnings, starts, strict=True)]):
            self._block([beginnings[row] for row in rows], [starts[row] for row in rows], cache, rows.start)
        for row, each in enumerate(beginnings):
            self.prefixes.keep(each.adapter, each.ids, cache.taken(row, slice(len(each.ids))))

    def _begin(self, prompt: Prompt, cache: KeyValues, row: int) -> int:
        """Put what is kept of a prompt's beginning into a row; how many tokens that is."""
        length, columns = self.prefixes.longest(prompt.adapter, prompt.ids)
        if columns is not None:
            cache.give(row, columns)
        return length

    def _blocks(self, lengths: Sequence[int]) -> Iterator[range]:
        """Neighbouring rows, as many as one pass may hold."""
        start, longest = 0, 0
        for row, length in enumerate(lengths):
            longest = max(longest, length)
            if row > start and not self.limits.pass_holds(row + 1 - start, longest):
                yield range(start, row)
                start, longest = row, length
        if lengths:
            yield range(start, len(lengths))

    def _block(
        self, prompts: Sequence[Prompt], starts: Sequence[int], cache: KeyValues, first: int
    ) -> list[torch.Tensor]:
        left = [prompt.ids[start:] for prompt, start in zip(prompts, starts, strict=True)]
        width = max(map(len, left))
        ids = torch.zeros(len(left), width, dtype=torch.long)
        for row, tokens in enumerate(left):
            ids[row, : len(tokens)] = torch.tensor(tokens)
        begin = torch.tensor(starts)
        positions = begin[:, None] + torch.arange(width)
        columns = max(starts) + width
        seen = torch.arange(columns) <= positions[:, :, None]
        uniform: Any = starts[0] if len(set(starts)) == 1 else begin.to(self.forward.device)
        cache.block(slice(first, first + len(left)), uniform, columns)
        # Beyond a prompt's end positions may leave the model's context; nothing is read there.
        last = torch.tensor([len(prompt.ids) - 1 for prompt in prompts])
        try:
            hidden = self.forward.hidden(
                ids, positions.minimum(last[:, None]), seen, [prompt.slot for prompt in prompts], cache
            )
        except NotFinite as error:
            raise Spoiled([prompts[row] for row in error.rows]) from None
        return [hidden[row, len(tokens) - 1] for row, tokens in enumerate(left)]
