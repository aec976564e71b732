"""Task endpoints: `/v1/tasks/TASK`, and `/v1/rerank`, `/v1/classify`, `/v1/rewrite` and `/v1/answers`.

The server renders the task's own prompt, constrains and parses the answer, and applies tuning and fallback, as a stage
of a pipeline does. Nothing here knows a task by name: the search shapes fill a search context, and a task reads from
it what it declares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter

from searchlora.server.api.adapter_tasks import record_of
from searchlora.server.api.disconnect import unless_disconnected
from searchlora.server.api.model_task import CallerEngine, ModelTask, model_task
from searchlora.server.api.schemas import AnswerRequest, ClassifyRequest, RerankRequest, RewriteRequest, TaskRequest
from searchlora.server.api.service import Service
from searchlora.server.api.task_outputs import answered, classified, output_json, reranked, rewritten

T = TypeVar("T")

_TASK, _RERANK, _CLASSIFY = TypeAdapter(TaskRequest), TypeAdapter(RerankRequest), TypeAdapter(ClassifyRequest)
_REWRITE, _ANSWER = TypeAdapter(RewriteRequest), TypeAdapter(AnswerRequest)


def routes(service: Service) -> APIRouter:
    """`POST` to the task endpoints."""
    router = APIRouter()

    async def outputs(http: Request, model: str, count: int, run: Callable[[ModelTask], T]) -> Response:
        """The JSON response of a function that runs in a worker thread while its requests are in the queue."""
        with service.admitted(http.state.caller, count):
            engine = CallerEngine(service, http.state.caller)
            try:
                result = await unless_disconnected(
                    http, service.in_task_thread(http.state.caller, lambda: run(model_task(service, model, engine)))
                )
            finally:
                engine.cancel()
        return await service.json(http.state.caller, lambda: result)

    @router.post("/v1/tasks/{task}")
    async def task(http: Request, task: str) -> Response:
        body: TaskRequest = await service.body(http, _TASK)
        rows = body.inputs if body.inputs is not None else [body.input or {}]

        def run(model: ModelTask) -> dict[str, Any]:
            model.check(task)
            records = [record_of(model.task, row, number) for number, row in enumerate(rows)]
            found = [output_json(model.task, record, output) for record, output in model.ask(records)]
            envelope = {"object": "task_output", "model": model.name, "task": model.task.name}
            return envelope | ({"output": found[0]} if body.inputs is None else {"outputs": found})

        return await outputs(http, body.model, len(rows), run)

    @router.post("/v1/rerank")
    async def rerank(http: Request) -> Response:
        body: RerankRequest = await service.body(http, _RERANK)
        return await outputs(http, body.model, len(body.documents), lambda model: reranked(model, body))

    @router.post("/v1/classify")
    async def classify(http: Request) -> Response:
        body: ClassifyRequest = await service.body(http, _CLASSIFY)
        return await outputs(http, body.model, len(body.input), lambda model: classified(model, body))

    @router.post("/v1/rewrite")
    async def rewrite(http: Request) -> Response:
        body: RewriteRequest = await service.body(http, _REWRITE)
        return await outputs(http, body.model, 1, lambda model: rewritten(model, body))

    @router.post("/v1/answers")
    async def answers(http: Request) -> Response:
        body: AnswerRequest = await service.body(http, _ANSWER)
        return await outputs(http, body.model, 1, lambda model: answered(model, body))

    return router
