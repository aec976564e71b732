"""Execution of a served pipeline on one query, with a trace of each stage: what it wrote, asked and took."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from searchlora.errors import PipelineError, RenderError
from searchlora.inference.engine import Completion
from searchlora.inference.metered import Exchange, MeteredEngine
from searchlora.outputs import InvalidOutput
from searchlora.pipelines.execution import execute_stage
from searchlora.pipelines.explain import explain
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.results import plain, result
from searchlora.pipelines.stages import AdapterStage, Stage
from searchlora.records import Hit, SearchContext
from searchlora.server.api.errors import ApiError
from searchlora.server.api.model_task import CallerEngine
from searchlora.server.api.score import probabilities
from searchlora.server.api.served_pipelines import pipeline_message

if TYPE_CHECKING:
    from searchlora.server.api.schemas import SearchRequest
    from searchlora.server.api.service import Service

#: Prompts of a stage that a trace holds; a stage that grades a hundred passages asks a hundred.
MAX_CALLS = 50

#: Errors of a stage that reads a field of the request of another form than it expects.
_UNREADABLE_FIELDS = (TypeError, KeyError, ValueError, AttributeError, IndexError)


def call_json(call: Exchange, base: str) -> dict[str, Any]:
    """A request to an engine with its answer, as JSON values; `base` is the model of a request without an adapter."""
    content: dict[str, Any] = {
        "model": call.request.adapter or base,
        "messages": [dict(message) for message in call.request.messages],
        "answer_prefix": call.request.answer_prefix,
        "prompt_tokens": call.answer.prompt_tokens,
    }
    if isinstance(call.answer, Completion):
        return content | {"output": call.answer.text, "completion_tokens": call.answer.completion_tokens}
    shares = probabilities(call.answer.log_probabilities)
    return content | {"choices": dict(zip(call.choices, shares, strict=True))}


@dataclass
class SearchJob:
    """One search of a caller.

    Args:
        service: The service.
        body: The request.
        caller: Who asks.
        on_stage: Called with the trace of each stage as soon as it has finished, in the job's thread.
    """

    service: Service
    body: SearchRequest
    caller: str
    on_stage: Callable[[dict[str, Any]], object] = lambda _: None
    _engine: CallerEngine = field(init=False)
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._engine = CallerEngine(self.service, self.caller)

    def cancel(self) -> None:
        """Withdraw all requests to the engine, and stop after the stage that is executed."""
        self._cancelled.set()
        self._engine.cancel()

    def run(self) -> dict[str, Any]:
        """Execute the pipeline.

        Returns:
            The body of the response.

        Raises:
            ApiError: 404 for an unknown pipeline; 400 for unknown slots, a document that is not in the corpus, and
                fields that a stage cannot read.
            SearchloraError: what engines and retrievers raise.
        """
        pipeline = self.service.pipelines.variant(self.body.pipeline, self.body.slots)
        try:
            return self._searched(pipeline) if self.body.explain is None else self._explained(pipeline)
        except PipelineError as error:
            raise ApiError(400, "invalid_value", pipeline_message(error), param="fields") from None
        except RenderError as error:
            message = f"A prompt cannot be rendered: {error.what}."
            raise ApiError(400, "invalid_value", message, param="query") from None
        except _UNREADABLE_FIELDS as error:
            if not self.body.fields or isinstance(error, FileNotFoundError):
                raise
            message = f"A stage cannot read the fields {', '.join(self.body.fields)}."
            raise ApiError(400, "invalid_value", message, param="fields") from error

    def _searched(self, pipeline: Pipeline) -> dict[str, Any]:
        search = before = self._search
        began = time.perf_counter()
        stages = []
        for index, (stage, settings) in enumerate(zip_longest(pipeline.stages, pipeline.settings)):
            if self._cancelled.is_set():
                raise ApiError(499, "client_disconnected", "The client has disconnected.")
            of_caller, calls = self._of_caller(stage)
            started = time.perf_counter()
            (after,) = execute_stage(of_caller, settings, [before], index + 1)
            seconds = time.perf_counter() - started
            row = self._trace(index, stage, before, after, calls)
            stages.append(row | {"milliseconds": _milliseconds(seconds)})
            self.on_stage(stages[-1])
            before = after
        written = result(search, before, ())
        hits = [hit for hit in before.get("hits", ()) if isinstance(hit, Hit)]
        return {
            "object": "search",
            "pipeline": pipeline.name,
            "query": str(before["query"]),
            "hits": [self._hit(pipeline, rank, hit) for rank, hit in enumerate(hits[: self.body.top], 1)],
            "total": len(hits),
            "output": {name: value for name, value in written.items() if name not in _NOT_OUTPUT},
            "stages": stages,
            "milliseconds": _milliseconds(time.perf_counter() - began),
        }

    def _explained(self, pipeline: Pipeline) -> dict[str, Any]:
        document = self.body.explain or ""
        if pipeline.documents and document not in pipeline.documents:
            message = f"There is no document '{document[:64]}' in the corpus."
            raise ApiError(400, "invalid_value", message, param="explain")
        stages = [self._of_caller(stage)[0] for stage in pipeline.stages]
        explained = explain(replace(pipeline, stages=stages), self.body.query, document, **self.body.fields)
        return {"object": "explanation", "pipeline": pipeline.name, **explained.to_json()}

    @property
    def _search(self) -> SearchContext:
        return {"id": "1", "query": self.body.query, **self.body.fields}

    def _of_caller(self, stage: Stage) -> tuple[Stage, list[Exchange]]:
        """The stage as it is executed for this caller, and its requests, which are added as they are answered."""
        calls: list[Exchange] = []
        if not isinstance(stage, AdapterStage):
            return stage, calls
        engine = self._engine if stage.engine is self.service.engine else stage.engine
        return replace(stage, engine=MeteredEngine(engine, listener=calls.append)), calls

    def _trace(
        self, index: int, stage: Stage, before: SearchContext, after: SearchContext, calls: Sequence[Exchange]
    ) -> dict[str, Any]:
        written = result(before, after, ())
        output = {name: value for name, value in written.items() if name not in _NOT_OUTPUT}
        if after["query"] != before["query"]:
            output["query"] = after["query"]
        row: dict[str, Any] = {
            "type": "stage",
            "index": index,
            "stage": stage.label,
            "adapter": stage.adapter if isinstance(stage, AdapterStage) else None,
            "output": output,
        }
        if "hits" in written:
            row["hits"] = written["hits"][: self.body.top]
        if isinstance(stage, AdapterStage):
            outputs = after.get("outputs", {}).get(stage.task.name, ())
            row["invalid"] = list(dict.fromkeys(each.reason for each in outputs if isinstance(each, InvalidOutput)))
            row["tokens"] = {
                "prompt": sum(call.answer.prompt_tokens for call in calls),
                "completion": sum(getattr(call.answer, "completion_tokens", 0) for call in calls),
            }
            row["requests"] = len(calls)
            if self.body.trace:
                row["calls"] = [call_json(call, self.service.base) for call in calls[:MAX_CALLS]]
        return row

    def _hit(self, pipeline: Pipeline, rank: int, hit: Hit) -> dict[str, Any]:
        document = hit.fetched or pipeline.documents.get(hit.document)
        return {
            "rank": rank,
            "document": hit.document,
            "score": plain(hit.score),
            "title": document.title if document is not None else None,
            "text": document.text if document is not None else None,
        }


#: Keys of a result that are no field which a stage wrote.
_NOT_OUTPUT = ("id", "query", "stages", "input", "hits", "invalid")


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)
