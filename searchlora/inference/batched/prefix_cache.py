"""Prefix cache: the KV cache of prompt prefixes that several requests share, least recently used evicted first."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from searchlora.inference.out_of_memory import is_out_of_memory
from searchlora.inference.scheduling.requests import TokenIds

#: A prefix is cached separately if it is at least this many tokens longer than the one it extends.
MIN_EXTENSION = 16

#: Number of recent prompts that later ones are compared with.
_RECENT = 64


def shared_prefixes(prompts: Sequence[TokenIds]) -> list[list[TokenIds]]:
    """Prefixes that at least two different prompts share, in rounds: each one extends a prefix of an earlier round.

    The last token of a prompt is never part of a prefix: its hidden state must be computed.
    """
    order = sorted(set(prompts))
    common = [0, *(_common(one, other) for one, other in pairwise(order))]
    rounds: list[list[TokenIds]] = []
    open_ = [(0, len(order), 0, 0)] if order else []
    while open_:
        first, end, depth, turn = open_.pop()
        if end - first < 2:
            continue
        least = min(common[first + 1 : end])
        if least >= depth + MIN_EXTENSION:
            depth = least
            rounds += [[] for _ in range(turn + 1 - len(rounds))]
            rounds[turn].append(order[first][:depth])
            turn += 1
        cuts = [first, *(at for at in range(first + 1, end) if common[at] < depth + MIN_EXTENSION), end]
        open_ += [(start, stop, depth, turn) for start, stop in pairwise(cuts)]
    return rounds


def _common(one: TokenIds, other: TokenIds) -> int:
    length = min(len(one), len(other)) - 1
    return next((place for place in range(length) if one[place] != other[place]), length)


@dataclass
class PrefixCache:
    """Keys and values of prefixes, by adapter and token ids; `budget` in tokens."""

    budget: int
    changes: int = 0
    _entries: OrderedDict[tuple[Hashable, TokenIds], torch.Tensor] = field(default_factory=OrderedDict)
    _lengths: dict[Hashable, dict[int, int]] = field(default_factory=dict)  # adapter -> length -> number of entries
    _recent: dict[Hashable, deque[TokenIds]] = field(default_factory=dict)
    _tokens: int = 0

    def to_compute(self, adapter: Hashable, prompts: Sequence[TokenIds]) -> list[list[TokenIds]]:
        """Prefixes worth computing before these prompts, in rounds, without those that are cached.

        They are what the prompts share with each other and with recent ones.
        """
        if not self.budget:
            return []
        recent = self._recent.setdefault(adapter, deque(maxlen=_RECENT))
        rounds = shared_prefixes([*prompts, *recent])
        recent.extend([prompt for prompt in dict.fromkeys(prompts) if prompt not in recent])
        useful = [
            [prefix for prefix in prefixes if self.is_new(adapter, prefix) and _is_prefix_of_any(prefix, prompts)]
            for prefixes in rounds
        ]
        return [prefixes for prefixes in useful if prefixes]

    def is_new(self, adapter: Hashable, prefix: TokenIds) -> bool:
        return (adapter, prefix) not in self._entries and len(prefix) <= self.budget // 2

    def match_length(self, adapter: Hashable, prompt: TokenIds) -> int:
        """Length of the longest cached prefix of a prompt, its last token excluded; it does not count as used."""
        for length in sorted(self._lengths.get(adapter, ()), reverse=True):
            if length < len(prompt) and (adapter, prompt[:length]) in self._entries:
                return length
        return 0

    def longest_match(self, adapter: Hashable, prompt: TokenIds) -> tuple[int, torch.Tensor | None]:
        """Length and KV cache of the longest cached prefix, as `match_length`; it is the most recently used one now."""
        length = self.match_length(adapter, prompt)
        if not length:
            return 0, None
        key = (adapter, prompt[:length])
        self._entries.move_to_end(key)
        return length, self._entries[key]

    def add(self, adapter: Hashable, prefix: TokenIds, columns: torch.Tensor) -> None:
        key = (adapter, prefix)
        if key in self._entries:
            return
        self._entries[key] = columns
        self.changes += 1
        self._tokens += len(prefix)
        lengths = self._lengths.setdefault(adapter, {})
        lengths[len(prefix)] = lengths.get(len(prefix), 0) + 1
        while self._tokens > self.budget:
            self._remove(next(iter(self._entries)))

    def add_copy(self, adapter: Hashable, prefix: TokenIds, copy: Callable[[slice], torch.Tensor]) -> None:
        """Add a prefix, unless it is cached, too long, or memory runs out; `copy` returns its columns."""
        if not self.is_new(adapter, prefix):
            return
        try:
            columns = copy(slice(len(prefix)))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        else:
            self.add(adapter, prefix, columns)

    def remove_adapter(self, adapter: Hashable) -> None:
        """Remove all entries of an adapter: its name may mean other weights from now on."""
        for key in [key for key in self._entries if key[0] == adapter]:
            self._remove(key)
        self._recent.pop(adapter, None)
        self._lengths.pop(adapter, None)

    def _remove(self, key: tuple[Hashable, TokenIds]) -> None:
        adapter, prefix = key
        del self._entries[key]
        self.changes += 1
        self._tokens -= len(prefix)
        lengths = self._lengths[adapter]
        lengths[len(prefix)] -= 1
        if not lengths[len(prefix)]:
            del lengths[len(prefix)]


def _is_prefix_of_any(prefix: TokenIds, prompts: Sequence[TokenIds]) -> bool:
    return any(len(prompt) > len(prefix) and prompt[: len(prefix)] == prefix for prompt in prompts)
