"""The model of a task request: its task, and the engine as the request's client uses it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from searchlora.errors import PipelineError, RenderError
from searchlora.inference.engine import ChoiceScores, Completion, Engine
from searchlora.inference.engine import Request as EngineRequest
from searchlora.inference.metered import MeteredEngine
from searchlora.pipelines.stages.adapter import AdapterStage, with_outputs
from searchlora.pipelines.stages.stage import Stage
from searchlora.records import Record, SearchContext
from searchlora.server.api.adapter_tasks import input_schema
from searchlora.server.api.errors import ApiError
from searchlora.server.api.service import Service
from searchlora.task import GenerationTask

T = TypeVar("T")


class ClientEngine:
    """The engine as one client of the server uses it: requests wait in the queue of the client and can be cancelled."""

    def __init__(self, service: Service, client_id: str) -> None:
        self.service, self._client_id = service, client_id
        self._lock = threading.Lock()
        self._cancelled = False
        self._begin()

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

    def generate(self, requests: Sequence[EngineRequest]) -> list[Completion]:
        """See `Engine.generate`."""
        requests = [self.service.rendered(request) for request in requests]
        futures = [
            self._add([self.service.engine.submit(request, client=self._client_id, seconds=self._seconds)])[0]
            for request in requests
        ]
        completions = [future.result() for future in futures]
        for request, completion in zip(requests, completions, strict=True):
            self.service.metrics.completed(request.adapter or self.service.base, [completion])
        return completions

    def score(
        self, requests: Sequence[EngineRequest], choices: Sequence[Sequence[str]], *, prune_margin: float | None = None
    ) -> list[ChoiceScores]:
        """See `Engine.score`."""
        requests = [self.service.rendered(request) for request in requests]
        submitted = self.service.engine.submit_scores(
            ((request, each, prune_margin) for request, each in zip(requests, choices, strict=True)),
            client=self._client_id,
            seconds=self._seconds,
        )
        scores = [future.result() for future in self._add(submitted)]
        for request, scored in zip(requests, scores, strict=True):
            model = request.adapter or self.service.base
            self.service.metrics.tokens.labels(model, "prompt").inc(scored.prompt_tokens)
            self.service.metrics.tokens.labels(model, "scored").inc(scored.scored_tokens)
        return scores

    def cancel(self) -> None:
        """Withdraw all requests, and refuse further ones."""
        with self._lock:
            self._cancelled = True
        self._withdraw()

    def _begin(self) -> None:
        """Start the time limit, and forget requests that are over."""
        self._deadline = time.monotonic() + self.service.config.timeout
        with self._lock:
            self._futures: list[Future[Any]] = []

    def _withdraw(self) -> None:
        with self._lock:
            futures = list(self._futures)
        for future in futures:
            future.cancel()

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


def asking(stage: Stage, own: Engine, engine: Engine) -> Stage:
    """A stage with `engine` in the place of the server's `own`, below the cache of its answers if it has one."""

    def instead(current: Engine) -> Engine:
        if current is own:
            return engine
        if isinstance(current, MeteredEngine) and current.engine is own:
            return current.asking(engine)
        return current

    return stage.with_engines(instead)


@dataclass(frozen=True)
class ModelTask:
    """A model of a request: the task of its adapter, and the stage that asks it.

    Attributes:
        name: The exact adapter version, or the name of the base.
        task: The task with the adapter's settings and tuning.
    """

    name: str
    task: GenerationTask
    stage: AdapterStage

    def check(self, task: str) -> None:
        """Raise `ApiError` 400 if the model is an adapter for another task."""
        if task != self.task.name:
            message = f"{self.name} is an adapter for the task '{self.task.name}': POST to /v1/tasks/{self.task.name}."
            raise ApiError(400, "invalid_value", message, param="model")

    def unsuitable(self, why: str) -> ApiError:
        """The error of a shape that does not fit the task, 400."""
        message = f"{self.name} is an adapter for the task '{self.task.name}', which {why}. GET /v1/models/{self.name}."
        return ApiError(400, "invalid_value", message, param="model")

    def records_of(self, search: SearchContext) -> Sequence[Record]:
        """The records of a search, at least one. Raises `ApiError` 400 if the task needs more than the search has."""
        try:
            records = self.task.records_from(search)
        except PipelineError as error:
            raise self.unsuitable(f"needs another input: {error.what}") from None
        required = input_schema(self.task)["required"]
        missing = sorted({name for record in records for name in required if name not in record})
        if missing or not records:
            raise self.unsuitable(f"needs {', '.join(missing) or 'another input'}")
        return records

    def ask(self, records: Sequence[Record]) -> list[tuple[Record, Any]]:
        """Each record with its output."""
        try:
            return list(zip(records, self.stage.ask(records), strict=True))
        except RenderError as error:
            message = f"The prompt cannot be rendered: {error.what}."
            raise ApiError(400, "invalid_value", message, param="input") from None

    def search(self, context: SearchContext, field_: str) -> tuple[SearchContext, Any]:
        """The search after the stage, and the stage's output.

        Args:
            field_: The field of the context that the task must write; `ApiError` 400 if it writes another one.
        """
        if self.task.writes != field_:
            raise self.unsuitable(f"writes '{self.task.writes}', not '{field_}'")
        search = {"id": "1", **context}
        pairs = self.ask(self.records_of(search))
        records, outputs = [record for record, _ in pairs], [output for _, output in pairs]
        return with_outputs(self.task, search, records, outputs), outputs[0]


def model_task(service: Service, model: str, engine: ClientEngine) -> ModelTask:
    """The task of a request's `model`.

    Raises:
        ApiError: 400, for the base model or an adapter of an encoder, which have no prompt.
        NotInStore: for an unknown adapter.
    """
    pinned = service.pin(model)
    if pinned is None:
        message = f"{model} is a base model without a task. Name an adapter: GET /v1/models lists them."
        raise ApiError(400, "invalid_value", message, param="model")
    task, max_new_tokens = service.adapter_tasks.required(pinned)
    return ModelTask(pinned, task, AdapterStage(task, engine, pinned, max_new_tokens))
