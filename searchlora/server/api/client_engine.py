"""The server's engine as one client uses it: requests wait in the queue of the client and can be cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

from searchlora.inference.engine import ChoiceScores, Completion, Engine, Request
from searchlora.inference.metered import MeteredEngine
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.stages.stage import Stage
from searchlora.server.api.service import Service

T = TypeVar("T")

#: Requests of one call in the engine's queue at once: fewer than a client may have there, and enough to fill batches.
_AT_ONCE = 128


class ClientEngine:
    """The engine as one client uses it. Its requests have one time limit together."""

    def __init__(
        self, service: Service, client_id: str, *, metered: bool = False, seconds: float | None = None
    ) -> None:
        self.service, self._client_id, self._metered = service, client_id, metered
        self._lock = threading.Lock()
        self._cancelled = False
        self._deadline = time.monotonic() + (service.config.timeout if seconds is None else seconds)
        self._futures: list[Future[Any]] = []

    @property
    def cancelled(self) -> bool:
        """Whether its requests were withdrawn."""
        return self._cancelled

    @property
    def engine_id(self) -> str:
        return self.service.engine.engine_id

    @property
    def call_size(self) -> int:
        return self.service.engine.call_size

    def pin(self, adapter: str) -> str:
        return self.service.engine.pin(adapter)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return self._in_parts(len(requests), lambda part: self._generate(requests[part]))

    def _generate(self, requests: Sequence[Request]) -> list[Completion]:
        requests = [self.service.rendered(request) for request in requests]
        futures = [
            self._add([self.service.engine.submit(request, client=self._client_id, seconds=self._seconds)])[0]
            for request in requests
        ]
        completions = [future.result() for future in futures]
        for request, completion in zip(requests, completions, strict=True) if self._metered else ():
            self.service.metrics.completed(request.adapter or self.service.base, [completion])
        return completions

    def score(
        self, requests: Sequence[Request], choices: Sequence[Sequence[str]], *, prune_margin: float | None = None
    ) -> list[ChoiceScores]:
        return self._in_parts(len(requests), lambda part: self._score(requests[part], choices[part], prune_margin))

    def _score(
        self, requests: Sequence[Request], choices: Sequence[Sequence[str]], prune_margin: float | None
    ) -> list[ChoiceScores]:
        requests = [self.service.rendered(request) for request in requests]
        submitted = self.service.engine.submit_scores(
            ((request, each, prune_margin) for request, each in zip(requests, choices, strict=True)),
            client=self._client_id,
            seconds=self._seconds,
        )
        scores = [future.result() for future in self._add(submitted)]
        for request, scored in zip(requests, scores, strict=True) if self._metered else ():
            self.service.metrics.scored(request.adapter or self.service.base, scored)
        return scores

    def cancel(self) -> None:
        """Withdraw all requests, and refuse further ones."""
        with self._lock:
            self._cancelled = True
            futures = list(self._futures)
        for future in futures:
            future.cancel()

    def _in_parts(self, count: int, ask: Callable[[slice], list[T]]) -> list[T]:
        """The answers to `count` requests, of which the queue has a part at once."""
        size = min(_AT_ONCE, self.service.config.waiting_per_client or _AT_ONCE)
        return [answer for start in range(0, count, size) for answer in ask(slice(start, start + size))]

    @property
    def _seconds(self) -> float:
        return max(self._deadline - time.monotonic(), 0.0)

    def _add(self, futures: list[Future[T]]) -> list[Future[T]]:
        with self._lock:
            self._futures += futures
            cancelled = self._cancelled
        if cancelled:
            self.cancel()
        return futures


def asking(stage: Stage, engine: ClientEngine) -> Stage:
    """A stage with `engine` in the place of the server's, below the cache of its answers if it has one."""
    own = engine.service.engine

    def instead(current: Engine) -> Engine:
        if current is own:
            return engine
        if isinstance(current, MeteredEngine) and current.engine is own:
            return current.asking(engine)
        return current

    return stage.with_engines(instead)


def pipeline_asking(pipeline: Pipeline, engine: ClientEngine) -> Pipeline:
    """A pipeline whose stages ask `engine` instead of the server's."""
    return replace(pipeline, stages=[asking(stage, engine) for stage in pipeline.stages])
