"""Task endpoints: `/v1/tasks/TASK`, and `/v1/rerank`, `/v1/classify`, `/v1/rewrite` and `/v1/answers`.

The server renders the task's own prompt, constrains and parses the answer, and applies tuning and fallback, as a stage
of a pipeline does. Nothing here knows a task by name: the search shapes fill a search context, and a task reads from
it what it declares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Response

from searchlora.server.api.adapter_tasks import record_of
from searchlora.server.api.disconnect import unless_disconnected
from searchlora.server.api.model_task import ClientEngine, ModelTask, model_task
from searchlora.server.api.response_schemas import CitingAnswer, Classifications, Reranked, Rewritten, TaskOutputs
from searchlora.server.api.routing import ApiRequest, api_router
from searchlora.server.api.schemas import AnswerRequest, ClassifyRequest, RerankRequest, RewriteRequest, TaskRequest
from searchlora.server.api.task_outputs import answered, classified, output_json, reranked, rewritten

router = api_router()


@router.post("/v1/tasks/{task}", summary="Run a task", response_model=TaskOutputs)
async def run_task(http: ApiRequest, task: str, body: TaskRequest) -> Response:
    """Run the task of an adapter on one input or on several."""
    rows = body.inputs if body.inputs is not None else [body.input or {}]

    def run(model: ModelTask) -> TaskOutputs:
        model.check(task)
        records = [record_of(model.task, row, number) for number, row in enumerate(rows)]
        outputs: list[Any] = [output_json(model.task, record, output) for record, output in model.ask(records)]
        envelope: TaskOutputs = {"object": "task_output", "model": model.name, "task": model.task.name}
        return {**envelope, "output": outputs[0]} if body.inputs is None else {**envelope, "outputs": outputs}

    return await _outputs(http, body.model, len(rows), run)


@router.post("/v1/rerank", summary="Rerank documents", response_model=Reranked)
async def rerank(http: ApiRequest, body: RerankRequest) -> Response:
    """Order documents by the grades of a judge."""
    return await _outputs(http, body.model, len(body.documents), lambda model: reranked(model, body))


@router.post("/v1/classify", summary="Classify texts", response_model=Classifications)
async def classify(http: ApiRequest, body: ClassifyRequest) -> Response:
    """Give each text a label."""
    return await _outputs(http, body.model, len(body.input), lambda model: classified(model, body))


@router.post("/v1/rewrite", summary="Rewrite a query", response_model=Rewritten)
async def rewrite(http: ApiRequest, body: RewriteRequest) -> Response:
    """The query to search with."""
    return await _outputs(http, body.model, 1, lambda model: rewritten(model, body))


@router.post("/v1/answers", summary="Answer from passages", response_model=CitingAnswer)
async def answers(http: ApiRequest, body: AnswerRequest) -> Response:
    """Answer a question from passages, with citations."""
    return await _outputs(http, body.model, 1, lambda model: answered(model, body))


async def _outputs(http: ApiRequest, model: str, count: int, run: Callable[[ModelTask], Any]) -> Response:
    """The JSON response of a function that runs in a worker thread while its requests are in the queue."""
    service = http.service
    with service.admitted(http.client_id, count):
        engine = ClientEngine(service, http.client_id)
        try:
            result = await unless_disconnected(
                http, service.in_task_thread(http.client_id, lambda: run(model_task(service, model, engine)))
            )
        finally:
            engine.cancel()
    return await http.json_response(lambda: result)
