"""What prompts begin with in common is computed once: keys and values of shared beginnings, kept for later prompts."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch

Ids = tuple[int, ...]

#: A beginning is kept apart where it is so many tokens longer than the one before it.
LEAST = 16

#: Prompts that later ones are compared with.
_RECENT = 64


def shared(prompts: Sequence[Ids]) -> list[list[Ids]]:
    """The beginnings that at least two different prompts share, in rounds: each begins with one of a round before.

    The last token of a prompt is never in a beginning: something must be left to compute.
    """
    order = sorted(set(prompts))
    common = [0, *(_common(one, other) for one, other in pairwise(order))]
    rounds: list[list[Ids]] = []
    open_ = [(0, len(order), 0, 0)] if order else []
    while open_:
        first, end, depth, turn = open_.pop()
        if end - first < 2:
            continue
        least = min(common[first + 1 : end])
        if least >= depth + LEAST:
            depth = least
            rounds += [[] for _ in range(turn + 1 - len(rounds))]
            rounds[turn].append(order[first][:depth])
            turn += 1
        cuts = [first, *(at for at in range(first + 1, end) if common[at] < depth + LEAST), end]
        open_ += [(start, stop, depth, turn) for start, stop in pairwise(cuts)]
    return rounds


def _common(one: Ids, other: Ids) -> int:
    length = min(len(one), len(other)) - 1
    return next((place for place in range(length) if one[place] != other[place]), length)


@dataclass
class Prefixes:
    """Keys and values of beginnings, by what computed them (an adapter) and their tokens.

    Args:
        budget: Tokens that are kept in all; the ones used longest ago go first.
    """

    budget: int
    _kept: OrderedDict[tuple[Hashable, Ids], torch.Tensor] = field(default_factory=OrderedDict)
    _lengths: dict[Hashable, dict[int, int]] = field(default_factory=dict)  # of an adapter: length -> how many
    _recent: dict[Hashable, deque[Ids]] = field(default_factory=dict)
    _tokens: int = 0

    def wanted(self, adapter: Hashable, prompts: Sequence[Ids]) -> list[list[Ids]]:
        """What is worth computing before these prompts, in rounds: what they share with each other and with late ones.

        What is kept already is left out.
        """
        if not self.budget:
            return []
        recent = self._recent.setdefault(adapter, deque(maxlen=_RECENT))
        rounds = shared([*prompts, *recent])
        recent.extend(dict.fromkeys(prompts))
        useful = [
            [prefix for prefix in found if self.is_new(adapter, prefix) and _begins(prefix, prompts)]
            for found in rounds
        ]
        return [found for found in useful if found]

    def is_new(self, adapter: Hashable, prefix: Ids) -> bool:
        """Whether a beginning is not kept yet, and short enough to be."""
        return (adapter, prefix) not in self._kept and len(prefix) <= self.budget // 2

    def longest(self, adapter: Hashable, prompt: Ids) -> tuple[int, torch.Tensor | None]:
        """How many first tokens of a prompt are kept (its last one aside), and their keys and values."""
        for length in sorted(self._lengths.get(adapter, ()), reverse=True):
            key = (adapter, prompt[:length])
            if length < len(prompt) and key in self._kept:
                self._kept.move_to_end(key)
                return length, self._kept[key]
        return 0, None

    def keep(self, adapter: Hashable, prefix: Ids, columns: torch.Tensor) -> None:
        """Keep what `KeyValues.taken` gave."""
        key = (adapter, prefix)
        if key in self._kept:
            return
        self._kept[key] = columns
        self._tokens += len(prefix)
        lengths = self._lengths.setdefault(adapter, {})
        lengths[len(prefix)] = lengths.get(len(prefix), 0) + 1
        while self._tokens > self.budget:
            self._drop(next(iter(self._kept)))

    def forget(self, adapter: Hashable) -> None:
        """Drop all that an adapter computed: its name may mean other weights from now on."""
        for key in [key for key in self._kept if key[0] == adapter]:
            self._drop(key)
        self._recent.pop(adapter, None)
        self._lengths.pop(adapter, None)

    def _drop(self, key: tuple[Hashable, Ids]) -> None:
        adapter, prefix = key
        del self._kept[key]
        self._tokens -= len(prefix)
        lengths = self._lengths[adapter]
        lengths[len(prefix)] -= 1
        if not lengths[len(prefix)]:
            del lengths[len(prefix)]


def _begins(prefix: Ids, prompts: Sequence[Ids]) -> bool:
    return any(len(prompt) > len(prefix) and prompt[: len(prefix)] == prefix for prompt in prompts)
