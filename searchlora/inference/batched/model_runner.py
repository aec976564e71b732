"""Batched model runner: scores choices, prefills new rows and decodes all rows between two admissions."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from searchlora.inference.batched.admission import (
    CHUNKS_ALONE,
    CHUNKS_BESIDE_ROWS,
    Admission,
    BatchRoom,
    ScorePass,
)
from searchlora.inference.batched.choice_scoring import score_choices
from searchlora.inference.batched.chunked_prefill import ChunkedPrefill
from searchlora.inference.batched.decode import BatchRow, DecodeBatch
from searchlora.inference.batched.forward import Forward
from searchlora.inference.batched.lora_slots import LoraSlots
from searchlora.inference.batched.prefill import NonFinitePrompts, Prefiller, Prompt
from searchlora.inference.batched.prefix_cache import PrefixCache
from searchlora.inference.engine import non_finite_error
from searchlora.inference.out_of_memory import SmallerBatches, is_out_of_memory, request_error
from searchlora.inference.scheduling.engine_core import Counts, EngineCore
from searchlora.inference.scheduling.requests import AnyModelRequest, GenerateRequest, Limits, ScoreRequest, TokenIds
from searchlora.inference.settings import LocalSettings
from searchlora.models.memory import free_memory, kv_token

Kind = TypeVar("Kind", GenerateRequest, ScoreRequest)

_LOG = logging.getLogger(__name__)


def batched_core(
    model: Any,
    stop_id: int,
    fetch: Callable[[str], AbstractContextManager[Path]],
    settings: LocalSettings,
    limits: Limits,
) -> EngineCore:
    """An engine core that computes rows with different adapters in one batch."""
    forward, counts = Forward(model, batch_invariant=settings.is_batch_invariant()), Counts()
    if "cache_tokens" not in settings.model_fields_set:
        limits = _with_room(limits, forward)
    prefixes = PrefixCache(settings.prefix_tokens)
    prefiller = Prefiller(forward, prefixes, limits, counts)
    adapters = LoraSlots(forward.lora_layers, settings, fetch, prefixes.remove_adapter, counts)
    runner = BatchedModelRunner(DecodeBatch(prefiller, stop_id), prefiller, adapters, limits, counts)
    return EngineCore(runner, adapters, counts, limits, forward.vocabulary)


def _with_room(limits: Limits, forward: Forward) -> Limits:
    """The limits, with a smaller KV cache where a third of the free memory does not hold it.

    The rest is for long prompts, for the prefix cache and for the activations of a pass.
    """
    of_token = kv_token(forward.config.to_dict())
    if of_token is None:
        return limits
    free = free_memory("cpu")
    fitting = max(1, free // 3 // (of_token * forward.dtype.itemsize // 2))
    if fitting >= limits.cache_tokens:
        return limits
    level = logging.WARNING if fitting < limits.pass_tokens else logging.INFO
    _LOG.log(level, "The KV cache holds %d tokens, a third of the free memory; cache_tokens sets its size.", fitting)
    return replace(limits, cache_tokens=fitting)


class BatchedModelRunner:
    """The `ModelRunner` of rows that each have their own adapter."""

    def __init__(
        self, batch: DecodeBatch, prefiller: Prefiller, slots: LoraSlots, limits: Limits, counts: Counts
    ) -> None:
        self._batch, self._prefiller, self._slots = batch, prefiller, slots
        self._limits, self._counts = limits, counts
        self._usual = limits, prefiller.pass_limits
        self._long = ChunkedPrefill(prefiller)
        self._smaller = SmallerBatches()
        self._prefill_debt = 0.0  # seconds that decode steps have to take before the next chunk

    @property
    def running(self) -> Collection[AnyModelRequest]:
        return [*self._generating, *self._long.requests.values()]

    @property
    def _generating(self) -> list[GenerateRequest]:
        return [row.request for row in self._batch.rows.copy()]  # other threads change the list

    def release_finished(self) -> None:
        """Remove rows that ended, and rows and long prompts that were cancelled or are late."""
        for row in self._batch.remove(lambda row: row.ended or row.request.is_over):
            self._slots.release(row.prompt.adapter)
            row.settle()
        for prompt in [prompt for prompt, request in self._long.requests.items() if request.is_over]:
            self._slots.release(prompt.adapter)
            self._long.remove(prompt).fail_late()

    def admission(self, waiting: Collection[Hashable]) -> Admission:
        if self._smaller.have_ended():
            self._limits, self._prefiller.pass_limits = self._usual
            self._batch.max_rows = sys.maxsize
        slots, long = self._slots, self._long.requests.values()
        adapters = slots.in_use, slots.reading
        return Admission(self._limits, self._prefiller, slots.count, *adapters, self._generating, long, waiting)

    def compute(self, requests: Sequence[AnyModelRequest]) -> None:
        """Score, prefill new rows, compute a chunk of a long prompt, and decode one token of all rows."""
        begun: dict[Prompt, AnyModelRequest] = {}
        with self._releasing(begun):
            self._acquire(requests, begun)
            long = {prompt: request for prompt, request in begun.items() if self._is_long(prompt)}
            self._long.add(long)
            self._begin({prompt: request for prompt, request in begun.items() if prompt not in long})
        self._continue_long(bool(begun))
        self.release_finished()
        if self._batch.rows:
            self._decode()

    def drop_all(self) -> None:
        self._drop_rows()
        for prompt in self._long.requests:
            self._slots.release(prompt.adapter)
        self._long.clear()

    def _drop_rows(self) -> None:
        for row in self._batch.rows:
            self._slots.release(row.prompt.adapter)
        self._batch.clear()

    def _is_long(self, prompt: Prompt) -> bool:
        return self._prefiller.left(prompt) > self._prefiller.chunk

    @property
    def _is_interactive(self) -> bool:
        return any(request.interactive for request in self._generating)

    def _acquire(self, requests: Sequence[AnyModelRequest], begun: dict[Prompt, AnyModelRequest]) -> None:
        """Load the adapters of requests, and add a prompt for each to `begun`; requests without an adapter fail."""
        refused: dict[str | None, Exception] = {}  # a load check takes time while all rows wait: one per adapter
        for request in requests:
            if request.is_over:
                request.fail_late()
            elif request.adapter in refused:
                request.fail(refused[request.adapter])
            else:
                try:
                    slot = self._slots.acquire(request.adapter)
                    begun[Prompt(request.ids, request.adapter, slot, request.keep_prefix)] = request
                except Exception as error:
                    refused[request.adapter] = request_error(error)
                    request.fail(refused[request.adapter])

    @contextmanager
    def _releasing(self, begun: dict[Prompt, AnyModelRequest]) -> Iterator[None]:
        """At the end, release the adapters of the prompts that neither generate nor are being computed."""
        try:
            yield
        finally:
            held = {id(row.prompt) for row in self._batch.rows} | set(map(id, self._long.requests))
            for prompt in begun:
                prompt.prefix = None
                if id(prompt) not in held:
                    self._slots.release(prompt.adapter)

    def _begin(self, prompts: dict[Prompt, AnyModelRequest]) -> None:
        """Score or prefill prompts of which at most one chunk is left, all of a kind together.

        Prompts with non-finite hidden states fail, and the others are computed again. If memory runs out, halves are
        computed. Any other error of a pass fails its requests; generating rows go on.
        """
        score = {prompt: each for prompt, each in prompts.items() if isinstance(each, ScoreRequest)}
        generate = {prompt: each for prompt, each in prompts.items() if isinstance(each, GenerateRequest)}
        self._compute_all(score, self._score)
        first: dict[Prompt, GenerateRequest] = {}
        others: dict[Prompt, GenerateRequest] = {}  # they find their prompts in the cache
        begun = set[tuple[str | None, TokenIds]]()
        for prompt, request in generate.items():
            is_first = not prompt.keep_prefix or (prompt.adapter, prompt.ids) not in begun
            (first if is_first else others)[prompt] = request
            begun.add((prompt.adapter, prompt.ids))
        self._compute_all(first, self._prefill)
        self._compute_all(others, self._prefill)

    def _compute_all(self, prompts: dict[Prompt, Kind], compute: Callable[[dict[Prompt, Kind]], None]) -> None:
        """Compute prompts together, or in halves if memory runs out; those with non-finite hidden states fail."""
        left = dict(prompts)
        while left:
            try:
                compute(left)
                return
            except NonFinitePrompts as error:
                for prompt in error.among(list(left)):
                    left.pop(prompt).fail(non_finite_error(prompt.adapter))
            except Exception as error:
                if not is_out_of_memory(error) or (len(left) == 1 and not self._batch.rows):
                    for request in left.values():
                        request.fail(request_error(error))
                    return
                break  # the error holds the tensors of the failed pass until here
        if left:
            self._compute_halves(left, compute)

    def _compute_halves(self, prompts: dict[Prompt, Kind], compute: Callable[[dict[Prompt, Kind]], None]) -> None:
        """Compute prompts in two halves, after memory ran out. One prompt waits until a running row has ended."""
        running = len(self._batch.rows)
        self._smaller.warn_and_free(len(prompts))
        self._prefiller.free_scratch()
        if len(prompts) == 1:
            self._limits = replace(self._limits, rows=running)
            self._long.add(prompts)
            return
        half = len(prompts) // 2
        limits = self._prefiller.pass_limits
        self._prefiller.pass_limits = replace(limits, rows=min(limits.rows, half))
        items = list(prompts.items())
        for part in (items[:half], items[half:]):
            self._compute_all(dict(part), compute)

    def _continue_long(self, others_admitted: bool) -> None:
        """Begin the long prompts that are computed, or compute one chunk.

        While rows decode whose clients wait, this takes at most half of the time: after a chunk, decode steps take as
        long as the chunk has taken.
        """
        interactive = self._is_interactive
        if not interactive:
            self._prefill_debt = 0.0
        if self._prefill_debt > 0 or not self._long.requests:
            return
        started = time.monotonic()
        budget = self._prefiller.chunk * (CHUNKS_BESIDE_ROWS if interactive else CHUNKS_ALONE)
        ready: dict[Prompt, AnyModelRequest] = {}
        fits = self._room_to_join(others_admitted)
        try:
            ready = self._long.take_computed(fits, budget)
            if not ready:
                self._long.compute_chunk()
        except Exception as error:
            self._long_failed(error)
        with self._releasing(ready):
            self._begin(ready)
        if interactive:
            self._prefill_debt = time.monotonic() - started

    def _long_failed(self, error: Exception) -> None:
        """Fail the long prompt at hand. If memory ran out beside rows, it is computed again when they have ended."""
        prompt = self._long.current
        assert prompt is not None
        if is_out_of_memory(error) and self._batch.rows:
            self._smaller.warn_and_free(1)
            return
        self._slots.release(prompt.adapter)
        is_finite = not isinstance(error, NonFinitePrompts)
        self._long.remove(prompt).fail(request_error(error) if is_finite else non_finite_error(prompt.adapter))

    def _room_to_join(self, others_admitted: bool) -> Callable[[AnyModelRequest], bool]:
        """A test whether a computed prompt has room in the batch, which counts how often others got it instead."""
        room = BatchRoom(self._limits, [row.max_length for row in self._batch.rows])
        score_pass = ScorePass(self._limits)

        def fits(request: AnyModelRequest) -> bool:
            if isinstance(request, ScoreRequest):
                return score_pass.join(request)
            joins = room.join(request.max_tokens)
            request.overtaken += others_admitted and not joins
            return joins

        return fits

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
        rows = [BatchRow(request, prompt=prompt) for prompt, request in requests.items()]
        self._batch.add(rows)
        for row in rows:
            if row.request.keep_prefix:
                copy = partial(self._batch.copy_columns, row)
                self._prefiller.prefixes.add_copy(row.request.adapter, row.request.ids[:-1], copy)
        self._report(rows)

    def _decode(self) -> None:
        started = time.monotonic()
        try:
            rows = self._batch.step()
        except Exception as error:
            for request in self._generating:
                request.fail(request_error(error))
            self._drop_rows()
            return
        if self._batch.max_rows < self._limits.rows:
            self._smaller.warn_and_free(2 * self._batch.max_rows)
            self._limits = replace(self._limits, rows=self._batch.max_rows)
        self._prefill_debt -= time.monotonic() - started
        if rows:
            self._counts.decode_steps += 1
            self._counts.decoded_rows += len(rows)
        self._report(rows)

    def _report(self, rows: Sequence[BatchRow]) -> None:
        self._counts.generated_tokens += len(rows)
        for row in rows:
            if row.error is None:
                row.request.report(row.ids)
