"""Task endpoints: `/v1/tasks/TASK`, and `/v1/rerank`, `/v1/classify` and `/v1/rewrite`.

The server renders the task's own prompt, constrains and parses the answer, and applies tuning and fallback, as a stage
of a pipeline does. Nothing here knows a task by name: the search shapes fill a search context, and a task reads from
it what it declares.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from fastapi import Response

from searchlora.errors import PipelineError, RenderError
from searchlora.outputs import CitedAnswer, Grade, Graded, InvalidOutput, Label, OneLabel
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.pipelines.stages.answering import with_outputs
from searchlora.records import Record, SearchContext
from searchlora.server.api.adapter_tasks import input_schema, record_of
from searchlora.server.api.client_engine import ClientEngine
from searchlora.server.api.disconnect import unless_disconnected
from searchlora.server.api.errors import ApiError
from searchlora.server.api.response_schemas import (
    Classifications,
    Classified,
    Reranked,
    RerankResult,
    Rewritten,
    TaskOutputs,
)
from searchlora.server.api.routing import ApiRequest, api_router
from searchlora.server.api.schemas import ClassifyRequest, RerankRequest, RewriteRequest, TaskRequest
from searchlora.server.api.service import Service
from searchlora.task import GenerationTask

router = api_router()


@router.post("/v1/tasks/{task}", summary="Run a task", response_model=TaskOutputs)
async def run_task(http: ApiRequest, task: str, body: TaskRequest) -> Response:
    """Run the task of an adapter on one input or on several."""
    rows = body.inputs if body.inputs is not None else [body.input or {}]

    def run(stage: AdapterStage) -> TaskOutputs:
        if task != stage.task.name:
            raise _unfit(stage, f"has another path: POST to /v1/tasks/{stage.task.name}")
        records = [record_of(stage.task, row, number) for number, row in enumerate(rows)]
        pairs = zip(records, _ask(stage, records), strict=True)
        outputs: list[Any] = [output_json(stage.task, record, output) for record, output in pairs]
        envelope: TaskOutputs = {"object": "task_output", "model": stage.label, "task": stage.task.name}
        return {**envelope, "output": outputs[0]} if body.inputs is None else {**envelope, "outputs": outputs}

    return await _outputs(http, body.model, len(rows), run)


@router.post("/v1/rerank", summary="Rerank documents", response_model=Reranked)
async def rerank(http: ApiRequest, body: RerankRequest) -> Response:
    """Order documents by the expected grades of a judge, scaled to between 0 and 1; Cohere's shape."""

    def run(stage: AdapterStage) -> Reranked:
        passages = [{"id": str(number), **document} for number, document in enumerate(body.fields)]
        records = _records(stage, {"id": "1", "query": body.query, "passages": passages, "hits": []})
        spec = stage.task.output(records[0])
        if not isinstance(spec, Graded) or len(records) != len(passages):
            raise _unfit(stage, "grades no passages")
        grades = sorted(spec.scale.values())
        results: list[RerankResult] = []
        for number, (record, output) in enumerate(zip(records, _ask(stage, records), strict=True)):
            grade = stage.task.fallback(record) if isinstance(output, InvalidOutput) else output
            expected = _expected(grade, tuple(spec.scale.values())) if grade is not None else float(grades[0])
            score = (expected - grades[0]) / (grades[-1] - grades[0])
            result: RerankResult = {"index": number, "relevance_score": score}
            if isinstance(output, InvalidOutput):
                result["invalid"] = output.reason
            if body.return_documents:
                result["document"] = body.fields[number]
            results.append(result)
        results.sort(key=lambda result: (-result["relevance_score"], result["index"]))
        return {"id": f"rerank-{uuid.uuid4().hex}", "model": stage.label, "results": results[: body.top_n]}

    return await _outputs(http, body.model, len(body.documents), run)


@router.post("/v1/classify", summary="Classify texts", response_model=Classifications)
async def classify(http: ApiRequest, body: ClassifyRequest) -> Response:
    """Give each text a label, with the probability of every label; vLLM's shape."""

    def run(stage: AdapterStage) -> Classifications:
        records = _of_texts(stage, body.input)
        data: list[Classified] = []
        for number, (record, output) in enumerate(zip(records, _ask(stage, records), strict=True)):
            value = output_json(stage.task, record, output)
            labels: dict[str, float] = value.get("probabilities", {})
            data.append(
                {
                    "index": number,
                    "label": value["value"],
                    "probs": list(labels.values()),
                    "num_classes": len(labels),
                    "labels": list(labels),
                }
            )
            if not value["valid"]:
                data[-1]["invalid"] = value["reason"]
        identity = f"classify-{uuid.uuid4().hex}"
        return {"id": identity, "object": "list", "created": int(time.time()), "model": stage.label, "data": data}

    return await _outputs(http, body.model, len(body.input), run)


@router.post("/v1/rewrite", summary="Rewrite a query", response_model=Rewritten)
async def rewrite(http: ApiRequest, body: RewriteRequest) -> Response:
    """The query to search with."""

    def run(stage: AdapterStage) -> Rewritten:
        if stage.task.writes != "query":
            raise _unfit(stage, f"writes '{stage.task.writes}', not 'query'")
        given = {"history": body.turns, "titles": body.titles}
        search = {"id": "1", "query": body.query, **{name: value for name, value in given.items() if value}}
        records = _records(stage, search)
        outputs = _ask(stage, records)
        searched = with_outputs(stage.task, search, records, outputs)
        result: Rewritten = {"object": "rewrite", "model": stage.label, "query": str(searched["query"])}
        if isinstance(outputs[0], InvalidOutput):
            result["invalid"] = outputs[0].reason
        return result

    return await _outputs(http, body.model, 1, run)


async def _outputs(http: ApiRequest, model: str, count: int, run: Callable[[AdapterStage], Any]) -> Response:
    """The JSON response of a function that runs in a worker thread while its requests are in the queue."""
    service = http.service
    if count > (limit := service.config.requests_per_client):
        raise ApiError(400, "invalid_value", f"At most {limit} texts are answered in one request.")
    with service.admitted(http.client_id, count):
        engine = ClientEngine(service, http.client_id, metered=True)
        try:
            result = await unless_disconnected(
                http, service.in_task_thread(http.client_id, lambda: run(_stage(service, model, engine)))
            )
        finally:
            engine.cancel()
    return await http.json_response(lambda: result)


def _stage(service: Service, model: str, engine: ClientEngine) -> AdapterStage:
    """The stage of a request's `model`."""
    pinned = service.pin(model)
    if pinned is None:
        message = f"{model} is a base model without a task. Name an adapter: GET /v1/models lists them."
        raise ApiError(400, "invalid_value", message, param="model")
    adapter = service.adapter_task(pinned)
    if adapter.prompted is None:
        message = f"{pinned} has no prompt on this server. For an adapter of an encoder POST texts to /v1/embeddings."
        raise ApiError(400, "invalid_value", message, param="model")
    return AdapterStage(adapter.prompted, engine, pinned, adapter.max_new_tokens)


def _unfit(stage: AdapterStage, why: str) -> ApiError:
    """The error of a path that does not fit the task, 400."""
    message = (
        f"{stage.label} is an adapter for the task '{stage.task.name}', which {why}. GET /v1/models/{stage.label}."
    )
    return ApiError(400, "invalid_value", message, param="model")


def _records(stage: AdapterStage, search: SearchContext) -> Sequence[Record]:
    """The records of a search, at least one. Raises `ApiError` 400 if the task needs more than the search has."""
    try:
        records = stage.task.records_from(search)
    except PipelineError as error:
        raise _unfit(stage, f"needs another input: {error.what}") from None
    required = input_schema(stage.task)["required"]
    missing = sorted({name for record in records for name in required if name not in record})
    if missing or not records:
        raise _unfit(stage, f"needs {', '.join(missing) or 'another input'}")
    return records


def _of_texts(stage: AdapterStage, texts: Sequence[str]) -> list[Record]:
    """A record for each text. Raises `ApiError` 400 for a task that gives no single label."""
    searches: list[SearchContext] = [{"id": str(number), "query": text} for number, text in enumerate(texts)]
    records = [record for search in searches for record in _records(stage, search)]
    if not isinstance(stage.task.output(records[0]), OneLabel):
        raise _unfit(stage, "gives no single label")
    return records


def _ask(stage: AdapterStage, records: Sequence[Record]) -> list[Any]:
    try:
        return stage.ask(records)
    except RenderError as error:
        message = f"The prompt cannot be rendered: {error.what}."
        raise ApiError(400, "invalid_value", message, param="input") from None


def _expected(grade: Grade, grades: Sequence[int]) -> float:
    if grade.probabilities is None:
        return float(grade.value)
    return sum(value * share for value, share in zip(grades, grade.probabilities, strict=True))


def output_json(task: GenerationTask, record: Record, output: Any) -> dict[str, Any]:
    """A parsed output as JSON: `valid`, `value`, and what belongs to its kind, such as probabilities by choice.

    An output that did not parse has `valid` false, the `text`, the `reason`, and the task's fallback as `value`.

    Examples:
        >>> from searchlora.task import load_task, generation_task
        >>> output_json(generation_task(load_task("rewriting")), {"id": "1", "query": "telly"}, "television")
        {'valid': True, 'value': 'television'}
    """
    if isinstance(output, InvalidOutput):
        fallback = task.fallback(record)
        value = _details(task, record, fallback).get("value") if fallback is not None else None
        return {"valid": False, "value": value, "text": output.raw, "reason": output.reason}
    return {"valid": True, **_details(task, record, output)}


def _details(task: GenerationTask, record: Record, output: Any) -> dict[str, Any]:
    if isinstance(output, Label):
        return {"value": output.value} | _probabilities(task.output(record).choices, output.probabilities)
    if isinstance(output, Grade):
        spec = task.output(record)
        grades = spec.scale.values() if isinstance(spec, Graded) else ()
        reason = {} if output.reason is None else {"reason": output.reason}
        return {"value": output.value} | _probabilities(tuple(map(str, grades)), output.probabilities) | reason
    if isinstance(output, CitedAnswer):
        return {"value": output.text, **{name: each for name, each in asdict(output).items() if name != "text"}}
    return {"value": asdict(output) if is_dataclass(output) and not isinstance(output, type) else output}


def _probabilities(choices: Sequence[str] | None, probabilities: Sequence[float] | None) -> dict[str, Any]:
    if not choices or probabilities is None:
        return {}
    return {"probabilities": dict(zip(choices, probabilities, strict=True))}
