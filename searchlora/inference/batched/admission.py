"""Admission to the batched model runner: rows, KV cache, LoRA slots, tokens of a step, and each client's share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from typing import TypeAlias

from searchlora.inference.batched.prefill import Prefiller
from searchlora.inference.scheduling.fair_queue import MAX_OVERTAKEN
from searchlora.inference.scheduling.requests import (
    AnyModelRequest,
    AnyRequest,
    GenerateRequest,
    Limits,
    ModelRequest,
    ScoreRequest,
    TokenIds,
)

#: Adapter and token ids.
SharedPrompt: TypeAlias = tuple[str | None, TokenIds]

#: Chunks of short prompts that are begun in one step, beside rows that decode for a waiting client and without them.
CHUNKS_BESIDE_ROWS, CHUNKS_ALONE = 2, 8

#: One of so many rows and LoRA slots is reserved for clients that hold none.
RESERVED = 8


class ScorePass:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._requests: list[ScoreRequest] = []

    def join(self, request: ScoreRequest) -> bool:
        longest = max(other.max_tokens for other in [request, *self._requests])
        has_room = self._limits.pass_holds(len(self._requests) + 1, longest)
        if self._requests and (not has_room or request.prune_margin != self._requests[0].prune_margin):
            return False
        self._requests.append(request)
        return True


class BatchRoom:
    """Rows of a batch that have these maximum lengths, and `more` rows that will join, whose room is not counted
    yet.
    """

    def __init__(self, limits: Limits, lengths: Sequence[int], more: int = 0) -> None:
        self._limits = limits
        self._longest = max(lengths, default=0)
        self.rows = len(lengths) + more

    def capacity(self, length: int) -> int:
        """Number of rows that have room if one of them has this length."""
        return min(self._limits.rows, self._limits.cache_tokens // max(self._longest, length))

    def join(self, length: int) -> bool:
        """Add a row of this length, unless there is no room; the first row always has."""
        if self.rows and self.rows >= self.capacity(length):
            return False
        self.rows, self._longest = self.rows + 1, max(self._longest, length)
        return True


class Admission:
    """One round of admission.

    A client of `submit` leaves a few rows and LoRA slots free for clients that hold none, and while others wait it
    takes no more than its share. Requests of `finish` are not limited: nobody waits for one of them alone.
    """

    def __init__(
        self,
        limits: Limits,
        prefiller: Prefiller,
        slots: int,
        adapters: Collection[str],
        reading: Collection[str],
        generating: Collection[GenerateRequest],
        long: Collection[AnyModelRequest],
        waiting: Collection[Hashable],
    ) -> None:
        self._limits, self._prefiller = limits, prefiller
        self._slots, self._adapters = slots, set(adapters)
        self._reading = reading if generating or long else ()
        # A computed prompt that was overtaken too often keeps out all that would take its room.
        kept_out = [request.max_tokens for request in long if request.overtaken >= MAX_OVERTAKEN]
        lengths = [request.max_tokens for request in generating]
        joining = [request for request in long if isinstance(request, GenerateRequest)]
        self._room = BatchRoom(limits, lengths, len(joining))
        self._longest = max(kept_out, default=1)
        self._scored = ScorePass(limits)
        interactive = any(request.interactive for request in generating)
        self._left = prefiller.chunk * (CHUNKS_BESIDE_ROWS if interactive else CHUNKS_ALONE)  # tokens of this step
        self._begun = False  # whether a request of this round uses some of them
        self._long_tokens = sum(len(request.ids) for request in long)
        # Prompts of which more answers follow: the first one computes the prompt, and the others find it in the cache.
        self._long_prompts = {_shared_prompt(request) for request in joining} - {None}
        self._begun_prompts = set[SharedPrompt | None]()
        self._long_of = Counter[Hashable]()
        for request in long:
            self._long_of[request.client] += len(request.ids)
        self._rows_of = Counter(request.client for request in [*generating, *joining] if request.interactive)
        self._waiting = set(waiting)

    def may_take(self, request: AnyRequest) -> bool:
        assert isinstance(request, ModelRequest)
        client, is_long = request.client, self._is_long(request)
        if is_long and (self._long_tokens >= self._limits.long_tokens or _shared_prompt(request) in self._long_prompts):
            return False
        if not request.interactive:
            return True
        if is_long and self._long_of[client] >= self._limits.long_tokens // 4:
            return False
        if not isinstance(request, GenerateRequest):
            return True
        capacity, held = self._room.capacity(request.max_tokens), self._rows_of[client]
        reserve = max(capacity // RESERVED, min(1, self._limits.rows // RESERVED))
        if held < max(1, reserve // 2):
            return True
        clients = self._waiting | set(self._rows_of)
        if self._waiting - {client} and held >= capacity // len(clients):
            return False
        adapter = request.adapter
        takes_slot = adapter is not None and adapter not in self._adapters
        if takes_slot and self._slots - len(self._adapters) <= self._slots // RESERVED:
            return False
        return capacity - self._room.rows > reserve

    def fits(self, request: AnyRequest) -> bool:
        assert isinstance(request, ModelRequest)
        adapter = request.adapter
        needs_slot = adapter is not None and adapter not in self._adapters
        if needs_slot and (len(self._adapters) >= self._slots or adapter in self._reading):
            return False
        if not (self._fits_long if self._is_long(request) else self._fits_step)(request):
            return False
        if isinstance(request, GenerateRequest) and request.interactive:
            self._rows_of[request.client] += 1
        if adapter is not None:
            self._adapters.add(adapter)
        return True

    def _is_long(self, request: AnyModelRequest) -> bool:
        return self._tokens_left(request) > self._prefiller.chunk

    def _tokens_left(self, request: AnyModelRequest) -> int:
        if _shared_prompt(request) in self._begun_prompts:
            return 1
        return self._prefiller.left_of(request)

    def _fits_long(self, request: AnyModelRequest) -> bool:
        """A long prompt takes a row, but room in the batch only when it is computed."""
        if isinstance(request, GenerateRequest):
            if self._room.rows >= self._limits.rows:
                return False
            self._room.rows += 1
            self._long_prompts |= {_shared_prompt(request)} - {None}
        self._long_tokens += len(request.ids)
        self._long_of[request.client] += len(request.ids)
        return True

    def _fits_step(self, request: AnyModelRequest) -> bool:
        tokens = self._tokens_left(request)
        if isinstance(request, ScoreRequest) and request.prune_margin is None:
            tokens += sum(map(len, request.choices))
        if request.interactive and self._begun and tokens > self._left:
            return False
        if isinstance(request, ScoreRequest):
            joins = self._scored.join(request)
        else:
            joins = self._room.join(max(request.max_tokens, self._longest))
        if joins:
            self._left, self._begun = self._left - tokens, True
            self._begun_prompts |= {_shared_prompt(request)} - {None}
        return joins


def _shared_prompt(request: AnyModelRequest) -> SharedPrompt | None:
    """The prompt of a generation after which others with the same prompt follow; None for other requests."""
    is_shared = isinstance(request, GenerateRequest) and request.keep_prefix
    return (request.adapter, request.ids) if is_shared else None
