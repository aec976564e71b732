"""Task endpoints: `/v1/tasks/TASK`, and `/v1/rerank`, `/v1/classify`, `/v1/rewrite` and `/v1/answers`.

The server renders the task's own prompt, constrains and parses the answer, and applies tuning and fallback, as a stage
of a pipeline does. Nothing here knows a task by name: the search shapes fill a search context, and a task reads from
it what it declares.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter

from searchlora.errors import PipelineError, RenderError, UsageError
from searchlora.files.json_schema import schema_validator
from searchlora.inference.engine import Completion, Scored
from searchlora.inference.engine import Request as EngineRequest
from searchlora.outputs import (
    CitedAnswer,
    Continued,
    Grade,
    Graded,
    Grammar,
    InvalidOutput,
    Label,
    OneLabel,
    escape_regex,
)
from searchlora.pipelines.stages import AdapterStage, with_outputs
from searchlora.prompts import Message
from searchlora.prompts import messages as messages_of
from searchlora.records import Record, SearchContext
from searchlora.server.api.disconnect import unless_disconnected
from searchlora.server.api.errors import ApiError
from searchlora.server.api.schemas import AnswerRequest, ClassifyRequest, RerankRequest, RewriteRequest, TaskRequest
from searchlora.server.api.service import Service
from searchlora.task import PromptedTask, Task, load_task, prompted

T = TypeVar("T")

_TASK, _RERANK, _CLASSIFY = TypeAdapter(TaskRequest), TypeAdapter(RerankRequest), TypeAdapter(ClassifyRequest)
_REWRITE, _ANSWER = TypeAdapter(RewriteRequest), TypeAdapter(AnswerRequest)


def routes(service: Service) -> APIRouter:
    """`POST` to the task endpoints."""
    router = APIRouter()
    plugins = TaskPlugins(service)

    async def outputs(http: Request, model: str, count: int, run: Callable[[ModelTask], T]) -> Response:
        """The JSON response of a function that runs in a worker thread while its requests are in the queue."""
        with service.admitted(http.state.caller, count):
            engine = CallerEngine(service, http.state.caller)
            try:
                result = await unless_disconnected(
                    http, service.in_task_thread(http.state.caller, lambda: run(plugins.get(model, engine)))
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
        return await outputs(http, body.model, len(body.documents), lambda model: _reranked(model, body))

    @router.post("/v1/classify")
    async def classify(http: Request) -> Response:
        body: ClassifyRequest = await service.body(http, _CLASSIFY)
        return await outputs(http, body.model, len(body.input), lambda model: _classified(model, body))

    @router.post("/v1/rewrite")
    async def rewrite(http: Request) -> Response:
        body: RewriteRequest = await service.body(http, _REWRITE)

        def run(model: ModelTask) -> dict[str, Any]:
            context = {"query": body.query, **({"history": body.turns} if body.history else {})}
            searched, output = model.search(context, "query")
            invalid = {"invalid": output.reason} if isinstance(output, InvalidOutput) else {}
            return {"object": "rewrite", "model": model.name, "query": str(searched["query"]), **invalid}

        return await outputs(http, body.model, 1, run)

    @router.post("/v1/answers")
    async def answers(http: Request) -> Response:
        body: AnswerRequest = await service.body(http, _ANSWER)
        return await outputs(http, body.model, 1, lambda model: _answered(model, body))

    return router


class CallerEngine:
    """The engine as one caller of the server uses it: its requests wait in the caller's line and can be cancelled."""

    def __init__(self, service: Service, caller: str) -> None:
        self._service, self._caller = service, caller
        self._deadline = time.monotonic() + service.settings.timeout
        self._futures: list[Future[Any]] = []
        self._lock = threading.Lock()
        self._cancelled = False

    def pin(self, adapter: str) -> str:
        """See `Engine.pin`."""
        return self._service.engine.pin(adapter)

    def generate(self, requests: Sequence[EngineRequest]) -> list[Completion]:
        """See `Engine.generate`."""
        prepared = [self._prepared(request) for request in requests]
        futures = [
            self._add([self._service.engine.submit(request, caller=self._caller, seconds=self._seconds)])[0]
            for request in prepared
        ]
        completions = [future.result() for future in futures]
        for request, completion in zip(prepared, completions, strict=True):
            self._service.metrics.completed(request.adapter or self._service.base, completion, invalid=False)
        return completions

    def score(
        self, requests: Sequence[EngineRequest], choices: Sequence[Sequence[str]], *, prune_margin: float | None = None
    ) -> list[Scored]:
        """See `Engine.score`."""
        prepared = [self._prepared(request) for request in requests]
        submitted = self._service.engine.submit_scores(
            ((request, each, prune_margin) for request, each in zip(prepared, choices, strict=True)),
            caller=self._caller,
            seconds=self._seconds,
        )
        scores = [future.result() for future in self._add(submitted)]
        for request, scored in zip(prepared, scores, strict=True):
            model = request.adapter or self._service.base
            self._service.metrics.tokens.labels(model, "prompt").inc(scored.prompt_tokens)
            self._service.metrics.tokens.labels(model, "scored").inc(scored.scored_tokens)
        return scores

    def cancel(self) -> None:
        """Withdraw all requests, and refuse further ones."""
        with self._lock:
            self._cancelled = True
            futures = list(self._futures)
        for future in futures:
            future.cancel()

    @property
    def _seconds(self) -> float:
        return max(self._deadline - time.monotonic(), 0.0)

    def _prepared(self, request: EngineRequest) -> EngineRequest:
        return self._service.engine_request(replace(request, adapter=request.adapter or self._service.base))[0]

    def _add(self, futures: list[Future[T]]) -> list[Future[T]]:
        with self._lock:
            self._futures += futures
            cancelled = self._cancelled
        if cancelled:
            self.cancel()
        return futures


@dataclass(frozen=True)
class ModelTask:
    """A model of a request: the task of its adapter, and the stage that asks it.

    Attributes:
        name: The exact adapter version, or the name of the base.
        task: The task with the adapter's settings and tuning.
    """

    name: str
    task: PromptedTask
    stage: AdapterStage

    def check(self, task: str) -> None:
        """Raise `ApiError` 400 if the model is an adapter for another task."""
        if task != self.task.name:
            message = f"{self.name} is an adapter for the task '{self.task.name}': POST to /v1/tasks/{self.task.name}."
            raise ApiError(400, "invalid_value", message, param="model")

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
            raise _unsuitable(self, f"writes '{self.task.writes}', not '{field_}'")
        search = {"id": "1", **context}
        pairs = self.ask(self.task.records_from(search))
        records, outputs = [record for record, _ in pairs], [output for _, output in pairs]
        return with_outputs(self.task, search, records, outputs), outputs[0]


class TaskPlugins:
    """The tasks of adapters with their settings, cached by exact version."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._of_version = lru_cache(256)(self._load)

    def get(self, model: str, engine: CallerEngine) -> ModelTask:
        """The task of a request's `model`.

        Raises:
            ApiError: 400, for the base model or an encoder, which have no task.
            NotInStore: for an unknown adapter.
        """
        pinned = self._service.pin(model)
        if pinned is None:
            message = f"{model} is a base model without a task. Name an adapter: GET /v1/models lists them."
            raise ApiError(400, "invalid_value", message, param="model")
        task, max_new_tokens = self._of_version(pinned)
        return ModelTask(pinned, task, AdapterStage(task, engine, pinned, max_new_tokens))

    def _load(self, pinned: str) -> tuple[PromptedTask, int]:
        manifest = self._service.store.get(pinned).manifest
        task = load_task(manifest.task, self._service.tasks).bound(manifest.settings, manifest.tuned)
        try:
            return prompted(task), int(manifest.recipe["max_new_tokens"])
        except UsageError:
            message = f"{pinned} is an adapter for an encoder. POST texts to /v1/embeddings."
            raise ApiError(400, "invalid_value", message, param="model") from None


def chat_prompt(
    service: Service, pinned: str | None, messages: Sequence[Message], fields: Mapping[str, Any] | None
) -> tuple[tuple[Message, ...], Grammar | None, int] | None:
    """The prompt of an adapter's task for a chat, its grammar, and the recipe's limit of new tokens.

    None where the messages are the prompt themselves: to the base model, in a conversation or with a system message,
    and where the task needs more than a query.

    Args:
        pinned: The exact adapter version; None is the base model.
        messages: The chat.
        fields: The input fields of the task, if the request gives them.

    Raises:
        ApiError: 400, for input fields that the task does not take, or to a model without a task.
    """
    is_query = len(messages) == 1 and messages[0]["role"] == "user"
    if pinned is None or (fields is None and not is_query):
        if fields is not None:
            raise ApiError(400, "invalid_value", "A base model has no task: name an adapter.", param="task_input")
        return None
    manifest = service.store.get(pinned).manifest
    task = _plugin(service, manifest.task)
    if not isinstance(task, PromptedTask):
        if fields is not None:
            message = f"The task '{manifest.task}' of this adapter takes no input fields on this server."
            raise ApiError(400, "invalid_value", message, param="task_input")
        return None
    task = task.bound(manifest.settings, manifest.tuned)
    if fields is None:
        try:
            record = task.records_from({"id": "0", "query": messages[0]["content"]})[0]
        except PipelineError:  # it needs more than a query, such as passages
            return None
        fields = {name: value for name, value in record.items() if name in input_schema(task)["properties"]}
        if not schema_validator(input_schema(task)).is_valid(fields):
            return None
    record = record_of(task, fields)
    spec = task.output(record)
    choices = None if isinstance(spec, Continued) and spec.continues else spec.choices
    grammar = Grammar("regex", "|".join(map(escape_regex, choices))) if choices else spec.grammar
    return messages_of(task, record), grammar, int(manifest.recipe["max_new_tokens"])


def description(service: Service, pinned: str) -> dict[str, Any]:
    """What the page of an adapter says besides its entry: the task, its input fields, and a request that works.

    Empty for an adapter whose task has no prompt.
    """
    manifest = service.store.get(pinned).manifest
    task = _plugin(service, manifest.task)
    if not isinstance(task, PromptedTask):
        return {"task": manifest.task}
    schema = input_schema(task)
    example = {name: value for name, value in task.examples[0].items() if name in schema["properties"]}
    body = {"model": pinned, "input": example}
    return {
        "task": manifest.task,
        "input": schema,
        "example": {"method": "POST", "path": f"/v1/tasks/{manifest.task}", "body": body},
    }


def _plugin(service: Service, task: str) -> Task | None:
    """The plugin of a task; None if it is not installed here."""
    try:
        return load_task(task, service.tasks)
    except UsageError:
        return None


def input_schema(task: PromptedTask) -> dict[str, Any]:
    """JSON Schema of a task's input: the record's schema without the fields of the expected output.

    Examples:
        >>> sorted(input_schema(prompted(load_task("rewriting")))["properties"])
        ['history', 'query']
    """
    schema = task.record_schema
    properties = {name: schema["properties"][name] for name in task.reads if name in schema["properties"]}
    required = [name for name in schema.get("required", []) if name in properties]
    inputs = {"type": "object", "additionalProperties": False, "properties": properties, "required": required}
    return inputs | ({"$defs": schema["$defs"]} if "$defs" in schema else {})


def record_of(task: PromptedTask, fields: Mapping[str, Any], number: int = 0) -> Record:
    """A record with these input fields. Raises `ApiError` 400 for fields that the task does not take."""
    schema = input_schema(task)
    if error := next(iter(schema_validator(schema).iter_errors(dict(fields))), None):
        place = ".".join(map(str, error.absolute_path))
        message = f"Input {number + 1}{f', {place}' if place else ''}: {error.message[:200]}."
        raise ApiError(400, "invalid_value", f"{message} Fields: {', '.join(schema['properties'])}.", param="input")
    return {"id": str(number), "group": str(number), **fields}


def output_json(task: PromptedTask, record: Record, output: Any) -> dict[str, Any]:
    """A parsed output as JSON: `valid`, `value`, and what belongs to its kind, such as probabilities by choice.

    An output that did not parse has `valid` false, the `text`, the `reason`, and the task's fallback as `value`.

    Examples:
        >>> output_json(prompted(load_task("rewriting")), {"id": "1", "query": "telly"}, "television")
        {'valid': True, 'value': 'television'}
    """
    if isinstance(output, InvalidOutput):
        fallback = task.fallback(record)
        value = _details(task, record, fallback).get("value") if fallback is not None else None
        return {"valid": False, "value": value, "text": output.raw, "reason": output.reason}
    return {"valid": True, **_details(task, record, output)}


def _details(task: PromptedTask, record: Record, output: Any) -> dict[str, Any]:
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


def _unsuitable(model: ModelTask, why: str) -> ApiError:
    message = f"{model.name} is an adapter for the task '{model.task.name}', which {why}. GET /v1/models/{model.name}."
    return ApiError(400, "invalid_value", message, param="model")


def _reranked(model: ModelTask, body: RerankRequest) -> dict[str, Any]:
    """Cohere's shape: the documents by relevance score, which is the expected grade, scaled to between 0 and 1."""
    passages = [{"id": str(number), **document} for number, document in enumerate(body.fields)]
    search = {"id": "1", "query": body.query, "passages": passages, "hits": []}
    records = model.task.records_from(search)
    spec = model.task.output(records[0])
    if not isinstance(spec, Graded) or len(records) != len(passages):
        raise _unsuitable(model, "grades no passages")
    grades = sorted(spec.scale.values())
    results: list[dict[str, Any]] = []
    for number, (record, output) in enumerate(model.ask(records)):
        grade = model.task.fallback(record) if isinstance(output, InvalidOutput) else output
        expected = _expected(grade, tuple(spec.scale.values())) if grade is not None else float(grades[0])
        score = (expected - grades[0]) / (grades[-1] - grades[0])
        invalid = {"invalid": output.reason} if isinstance(output, InvalidOutput) else {}
        results.append({"index": number, "relevance_score": score, **invalid})
    results.sort(key=lambda each: (-each["relevance_score"], each["index"]))
    for each in results if body.return_documents else ():
        each["document"] = body.fields[each["index"]]
    return {"id": f"rerank-{uuid.uuid4().hex}", "model": model.name, "results": results[: body.top_n]}


def _expected(grade: Grade, grades: Sequence[int]) -> float:
    if grade.probabilities is None:
        return float(grade.value)
    return sum(value * share for value, share in zip(grades, grade.probabilities, strict=True))


def _classified(model: ModelTask, body: ClassifyRequest) -> dict[str, Any]:
    """vLLM's shape: one label per text with the probabilities of all labels."""
    records = [
        {**record, "id": str(number), "group": str(number)}
        for number, text in enumerate(body.input)
        for record in model.task.records_from({"id": str(number), "query": text})
    ]
    if not isinstance(model.task.output(records[0]), OneLabel):
        raise _unsuitable(model, "gives no single label")
    data = []
    for number, (record, output) in enumerate(model.ask(records)):
        value = output_json(model.task, record, output)
        probabilities = value.get("probabilities", {})
        row = {"index": number, "label": value["value"], "probs": list(probabilities.values())}
        row |= {"num_classes": len(probabilities), "labels": list(probabilities)}
        data.append(row | ({} if value["valid"] else {"invalid": value["reason"]}))
    envelope = {"id": f"classify-{uuid.uuid4().hex}", "object": "list", "created": int(time.time())}
    return envelope | {"model": model.name, "data": data}


def _answered(model: ModelTask, body: AnswerRequest) -> dict[str, Any]:
    """An answer from passages, with the ids of the cited ones."""
    history = {"history": body.turns} if body.history else {}
    context = {"query": body.query, "passages": body.passage_fields, **history}
    _, output = model.search(context, "answer")
    record = model.task.records_from({"id": "1", **context})[0]
    value = output_json(model.task, record, output)
    cited = value.pop("citations", ())
    ids = [passage["id"] for passage in body.passage_fields]
    envelope = {"object": "answer", "model": model.name, "answer": value.pop("value"), **value}
    return envelope | {"citations": [{"number": each, "id": ids[each - 1]} for each in cited if each <= len(ids)]}
