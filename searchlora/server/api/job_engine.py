"""The server's engine as background jobs use it: in a line of their own, a few requests at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from searchlora.errors import EngineBusy
from searchlora.inference.engine import ChoiceScores, Completion, Request
from searchlora.pipelines.pipeline import Pipeline
from searchlora.server.api.jobs import BackgroundJob
from searchlora.server.api.model_task import CallerEngine, asking
from searchlora.server.api.service import Service

T = TypeVar("T")

#: Searches of one call of a stage: few, so that a job moves on often and stops soon.
JOB_BATCH = 8

#: Requests that a job has in the engine's queue at once.
_REQUESTS = 32

#: Seconds between two attempts where the queue is full.
_PAUSE = 0.2


@dataclass(eq=False)
class JobEngine:
    """The server's engine as a background job uses it: few requests at a time, in a line of their own.

    Each group of requests has the time limit of a request of its own, and waits where the queue is full.
    """

    service: Service
    job: BackgroundJob
    _current: CallerEngine | None = None

    def __post_init__(self) -> None:
        self.job.on_cancel(self.cancel)

    @property
    def engine_id(self) -> str:
        """See `Engine.engine_id`."""
        return self.service.engine.engine_id

    @property
    def call_size(self) -> int:
        """See `Engine.call_size`."""
        return self.service.engine.call_size

    def pin(self, adapter: str) -> str:
        """See `Engine.pin`."""
        return self.service.engine.pin(adapter)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """See `Engine.generate`."""
        found: list[Completion] = []
        for start in range(0, len(requests), _REQUESTS):
            found += self._patiently(partial(_generated, requests[start : start + _REQUESTS]))
        return found

    def score(
        self, requests: Sequence[Request], choices: Sequence[Sequence[str]], *, prune_margin: float | None = None
    ) -> list[ChoiceScores]:
        """See `Engine.score`."""
        found: list[ChoiceScores] = []
        for start in range(0, len(requests), _REQUESTS):
            part = slice(start, start + _REQUESTS)
            found += self._patiently(partial(_scored, requests[part], choices[part], prune_margin))
        return found

    def cancel(self) -> None:
        """Withdraw the requests in the queue."""
        if self._current is not None:
            self._current.cancel()

    def _patiently(self, ask: Callable[[CallerEngine], list[T]]) -> list[T]:
        while True:
            self._current = CallerEngine(self.service, f"{self.job.caller}, background")
            self.job.check()  # after this, `cancel` finds the engine that is asked
            try:
                return ask(self._current)
            except EngineBusy:
                self._current.cancel()
                time.sleep(_PAUSE)


def _generated(requests: Sequence[Request], engine: CallerEngine) -> list[Completion]:
    return engine.generate(requests)


def _scored(
    requests: Sequence[Request], choices: Sequence[Sequence[str]], prune_margin: float | None, engine: CallerEngine
) -> list[ChoiceScores]:
    return engine.score(requests, choices, prune_margin=prune_margin)


def for_job(engine: JobEngine, pipeline: Pipeline) -> Pipeline:
    """A pipeline whose stages ask the server's engine in the job's own line."""
    return replace(pipeline, stages=[asking(stage, engine.service.engine, engine) for stage in pipeline.stages])
