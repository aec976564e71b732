"""The server's engine as background jobs use it: in a queue of their own, a few requests at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from searchlora.errors import EngineBusy
from searchlora.inference.engine import ChoiceScores, Completion, Request
from searchlora.pipelines.pipeline import Pipeline
from searchlora.server.api.jobs import BackgroundJob
from searchlora.server.api.model_task import ClientEngine, asking
from searchlora.server.api.service import Service

T = TypeVar("T")

#: Searches of one call of a stage: few, so that a job moves on often and stops soon.
JOB_BATCH = 8

#: Requests that a job has in the engine's queue at once.
_REQUESTS = 32

#: Seconds between two attempts where the queue is full.
_PAUSE = 0.2


class JobEngine(ClientEngine):
    """The server's engine as a background job uses it: few requests at a time, in a queue of their own.

    Each group of requests has the time limit of a request of its own, and waits where the queue is full.
    """

    def __init__(self, service: Service, job: BackgroundJob) -> None:
        super().__init__(service, f"{job.client_id}, background")
        self._job = job
        job.on_cancel(self.cancel)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """See `Engine.generate`."""
        completions: list[Completion] = []
        for start in range(0, len(requests), _REQUESTS):
            completions += self._patiently(partial(super().generate, requests[start : start + _REQUESTS]))
        return completions

    def score(
        self, requests: Sequence[Request], choices: Sequence[Sequence[str]], *, prune_margin: float | None = None
    ) -> list[ChoiceScores]:
        """See `Engine.score`."""
        scores: list[ChoiceScores] = []
        for start in range(0, len(requests), _REQUESTS):
            part = slice(start, start + _REQUESTS)
            group = partial(super().score, requests[part], choices[part], prune_margin=prune_margin)
            scores += self._patiently(group)
        return scores

    def _patiently(self, ask: Callable[[], list[T]]) -> list[T]:
        while True:
            self._begin()
            self._job.check()
            try:
                return ask()
            except EngineBusy:
                self._withdraw()
                time.sleep(_PAUSE)


def for_job(engine: JobEngine, pipeline: Pipeline) -> Pipeline:
    """A pipeline whose stages ask the server's engine in the queue of the job."""
    return replace(pipeline, stages=[asking(stage, engine.service.engine, engine) for stage in pipeline.stages])
