"""Batched model runner: scores choices, prefills new rows and decodes all rows between two admissions."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from searchlora.inference.batched.choice_scoring import score_choices
from searchlora.inference.batched.decode import DecodeBatch, Row
from searchlora.inference.batched.forward import Forward
from searchlora.inference.batched.lora_slots import LoraLimits, LoraSlots
from searchlora.inference.batched.prefill import NonFinitePrompts, Prefiller, Prompt
from searchlora.inference.batched.prefix_cache import PrefixCache
from searchlora.inference.engine import non_finite_error
from searchlora.inference.scheduling.engine_core import Counts, EngineCore
from searchlora.inference.scheduling.fair_queue import AnyRequest
from searchlora.inference.scheduling.requests import GenerateRequest, Limits, ModelRequest, ScoreRequest

Kind = TypeVar("Kind", GenerateRequest, ScoreRequest)


def batched_core(
    model: Any,
    stop_id: int,
    fetch: Callable[[str], Path],
    *,
    slots: LoraLimits,
    limits: Limits,
    prefix_tokens: int,
    batch_invariant: bool = False,
) -> EngineCore:
    """An engine core that computes rows with different adapters in one batch.

    Args:
        model: A model that `forward.is_supported`; its layers are replaced.
        stop_id: The token that ends an answer.
        fetch: Returns the checked folder of an adapter.
        slots: Upper bounds on the loaded adapters.
        limits: Sizes of batches and of the queue.
        prefix_tokens: Size of the prefix cache in tokens.
        batch_invariant: See `Forward`.
    """
    forward, counts = Forward(model, batch_invariant=batch_invariant), Counts()
    prefixes = PrefixCache(prefix_tokens)
    prefiller = Prefiller(forward, prefixes, limits, counts)
    adapters = LoraSlots(forward.lora_layers, slots, fetch, prefixes.remove_adapter, counts)
    runner = BatchedModelRunner(DecodeBatch(prefiller, stop_id), prefiller, adapters, limits, counts)
    return EngineCore(runner, adapters, counts, limits, forward.vocabulary)


@dataclass
class _Admitted:
    """What one round of admission has admitted, and what is running."""

    rows: int
    longest: int
    adapters: set[str]
    scored: list[ScoreRequest] = field(default_factory=list)


class BatchedModelRunner:
    """The `ModelRunner` of rows that each have their own adapter."""

    def __init__(
        self, batch: DecodeBatch, prefiller: Prefiller, slots: LoraSlots, limits: Limits, counts: Counts
    ) -> None:
        self._batch, self._prefiller, self._slots = batch, prefiller, slots
        self._limits, self._counts = limits, counts
        self._generating: dict[Row, GenerateRequest] = {}

    @property
    def running(self) -> Collection[GenerateRequest]:
        """Requests whose rows generate."""
        return self._generating.values()

    def release_finished(self) -> None:
        """Remove rows that ended, were cancelled or are late."""
        for row in self._batch.remove(lambda row: row.ended or self._generating[row].is_over):
            request = self._generating.pop(row)
            self._slots.release(row.prompt.adapter)
            if row.error is not None:
                request.fail(row.error)
            elif row.ended:
                request.finish(row.ids)
            else:
                request.fail_late()

    def admission(self) -> Callable[[AnyRequest], bool]:
        """Admits what fits beside the running rows: rows, KV cache, LoRA slots, tokens of a pass."""
        rows = self._batch.rows
        admitted = _Admitted(len(rows), max((row.max_length for row in rows), default=0), set(self._slots.in_use))
        return lambda request: self._fits(request, admitted)

    def compute(self, requests: Sequence[ModelRequest[Any]]) -> None:
        """Score, prefill new rows, and decode one token of all rows."""
        self._begin([each for each in requests if isinstance(each, ScoreRequest)], self._score)
        self._begin([each for each in requests if isinstance(each, GenerateRequest)], self._prefill)
        self.release_finished()
        if self._generating:
            self._decode()

    def drop_all(self) -> None:
        """Forget all rows."""
        for row in self._generating:
            self._slots.release(row.prompt.adapter)
        self._generating.clear()
        self._batch.clear()

    def _fits(self, request: AnyRequest, admitted: _Admitted) -> bool:
        assert isinstance(request, ModelRequest)
        adapter, in_use = request.adapter, admitted.adapters
        if adapter is not None and adapter not in in_use and len(in_use) >= self._slots.count:
            return False
        if isinstance(request, ScoreRequest):
            longest = max(each.max_tokens for each in [request, *admitted.scored])
            has_room = self._limits.pass_holds(len(admitted.scored) + 1, longest)
            if admitted.scored and (not has_room or request.prune_margin != admitted.scored[0].prune_margin):
                return False
            admitted.scored.append(request)
        else:
            longest = max(admitted.longest, request.max_tokens)
            has_room = admitted.rows < self._limits.rows and (admitted.rows + 1) * longest <= self._limits.cache_tokens
            if admitted.rows and not has_room:
                return False
            admitted.rows, admitted.longest = admitted.rows + 1, longest
        if adapter is not None:
            in_use.add(adapter)
        return True

    def _begin(self, requests: Sequence[Kind], compute: Callable[[dict[Prompt, Kind]], None]) -> None:
        """Load the adapters of requests, and compute the requests together.

        Requests with non-finite hidden states fail, and the others are computed again. Any other error of a pass (out
        of memory, a kernel's error) fails the requests of the pass; generating rows go on. Adapters of requests that do
        not generate are released.
        """
        ready: dict[Prompt, Kind] = {}
        refused: dict[str | None, Exception] = {}  # a load check takes time while all rows wait: one per adapter
        try:
            for request in requests:
                if request.is_over:
                    request.fail_late()
                elif request.adapter in refused:
                    request.fail(refused[request.adapter])
                else:
                    try:
                        slot = self._slots.acquire(request.adapter)
                        keep_prefix = isinstance(request, ScoreRequest) and request.keep_prefix
                        ready[Prompt(request.ids, request.adapter, slot, keep_prefix)] = request
                    except Exception as error:
                        refused[request.adapter] = error
                        request.fail(error)
            left = dict(ready)
            while left:
                try:
                    compute(left)
                    return
                except NonFinitePrompts as error:
                    for prompt in error.among(list(left)):
                        left.pop(prompt).fail(non_finite_error(prompt.adapter))
        except Exception as error:
            for request in ready.values():
                request.fail(error)
        finally:
            generating = {id(row.prompt) for row in self._generating}
            for prompt in ready:
                if id(prompt) not in generating:
                    self._slots.release(prompt.adapter)

    def _score(self, requests: dict[Prompt, ScoreRequest]) -> None:
        choices = [request.choices for request in requests.values()]
        margin = next(iter(requests.values())).prune_margin
        scores = score_choices(self._prefiller, list(requests), choices, margin)
        self._counts.scored_requests += len(scores)
        for request, scored in zip(requests.values(), scores, strict=True):
            if all(map(math.isfinite, scored.log_probabilities)):
                request.finish(scored)
            else:
                request.fail(non_finite_error(request.adapter))

    def _prefill(self, requests: dict[Prompt, GenerateRequest]) -> None:
        rows = {
            Row(prompt, request.max_new_tokens, request.matcher, request.ignore_stop): request
            for prompt, request in requests.items()
        }
        self._batch.add(list(rows))
        self._generating.update(rows)
        self._report(rows)

    def _decode(self) -> None:
        try:
            if not self._batch.step():
                return
        except Exception as error:
            for request in self._generating.values():
                request.fail(error)
            self.drop_all()
            return
        self._counts.decode_steps += 1
        self._counts.decoded_rows += len(self._generating)
        self._report(self._generating)

    def _report(self, rows: dict[Row, GenerateRequest]) -> None:
        self._counts.generated_tokens += len(rows)
        for row, request in rows.items():
            request.report(row.ids)
