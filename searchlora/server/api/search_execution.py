"""Execution of a served pipeline on one query, with the trace of each stage, and the evidence of an answer.

The rows of the trace are those of `pipelines.execution.trace_row`, as `searchlora run --trace` writes them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from searchlora.errors import DeadlineExceeded, EngineBusy, PipelineError, RenderError, SearchloraError
from searchlora.events.export import FAILED, UNSERVED
from searchlora.events.interleaving import INTERLEAVED, interleave
from searchlora.outputs import InvalidOutput
from searchlora.pipelines.execution import execute_stage
from searchlora.pipelines.explain import explain
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.results import NOT_FIELDS, plain, result
from searchlora.pipelines.shared_batches import SharedBatches
from searchlora.pipelines.stages.stage import Stage
from searchlora.records import Hit, SearchContext
from searchlora.server.api.client_engine import ClientEngine, asking, pipeline_asking
from searchlora.server.api.errors import ApiError, public_message
from searchlora.server.api.served_pipelines import LivePipeline, pipeline_message

if TYPE_CHECKING:
    from searchlora.server.api.search_schemas import SearchRequest
    from searchlora.server.api.service import Service

#: Requests of a stage that a trace holds; a stage that grades a hundred passages makes a hundred.
MAX_REQUESTS = 50

#: Errors of a stage that reads a field of the request of another form than it expects.
_UNREADABLE_FIELDS = (TypeError, KeyError, ValueError, AttributeError, IndexError)


@dataclass
class SearchJob:
    """One search of a client; `on_stage` gets the trace of each stage when it has finished, in the job's thread.

    `engine` is the server's engine as the client uses it; None: a new one.
    """

    service: Service
    body: SearchRequest
    client_id: str
    on_stage: Callable[[dict[str, Any]], object] = lambda _: None
    engine: ClientEngine | None = None
    _engine: ClientEngine = field(init=False)
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._engine = self.engine or ClientEngine(self.service, self.client_id)

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Withdraw all requests to the engine, and stop after the stage that is executed."""
        self._cancelled.set()
        self._engine.cancel()

    def run(self) -> dict[str, Any]:
        """Execute the pipeline, and return the body of the response.

        Raises:
            ApiError: 404 for an unknown pipeline; 400 for unknown slots, a document that is not in the corpus, and
                fields that a stage cannot read.
            SearchloraError: what engines and retrievers raise.
        """
        key = self.body.user or self.body.session
        live = self.service.pipelines.live(self.body.pipeline, self.body.slots, self.body.weights, key)
        try:
            return self._answered(live) if self.body.explain is None else self._explained(live.pipeline)
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

    def _answered(self, live: LivePipeline) -> dict[str, Any]:
        """The result of the pipeline, or of two that are interleaved, recorded if the server records.

        A version that an alias was moved to and that fails leaves its place to that of the start.
        """
        began = time.perf_counter()
        failed, interleaved = list(live.failed), None
        try:
            found = self._searched(live.pipeline)
        except SearchloraError as error:
            if not live.followed or isinstance(error, (EngineBusy, DeadlineExceeded, RenderError)):
                adapters = [adapter for stage in live.pipeline.stages if (adapter := getattr(stage, "adapter", None))]
                self._record(failed_search(self.body, began), failed + _suspects(live.pipeline, adapters, error))
                raise
            suspects = _suspects(live.pipeline, live.followed, error)
            self.service.pipelines.log_failed(live.pipeline.name, ", ".join(suspects), error)
            failed += suspects
            pipelines = self.service.pipelines
            try:
                found = self._searched(pipelines.variant(self.body.pipeline, self.body.slots, self.body.weights))
            except SearchloraError:
                self._record(failed_search(self.body, began), failed)  # it is the followed version's failure still
                raise
        first, _, second = (self.service.config.interleave or "").partition("=")
        if first == self.body.pipeline and self.body.record and not (self.body.slots or self.body.weights):
            found, interleaved = self._with_another(found, second)
        event = search_event(self.body, found) | ({INTERLEAVED: interleaved} if interleaved else {})
        id_ = self._record(event, failed)
        if id_ is None:
            return found
        if self.service.shadow is not None and interleaved is None:
            versions = {stage["adapter"] for stage in found["stages"] if stage.get("adapter")}
            self.service.shadow.offer(id_, self.body, versions)
        return {"id": id_, **found}

    def _record(self, event: Mapping[str, Any], failed: Sequence[str]) -> str | None:
        """Record an event, if the server records; returns its id."""
        events = self.service.events
        if events is None or not self.body.record or self.cancelled:
            return None
        for version in failed:
            self.service.metrics.unserved.labels(version).inc()
        return events.search(
            {**event, **({UNSERVED: list(failed)} if failed else {})}, self.body.session, self.body.user
        )

    def _with_another(self, one: dict[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The result with the hits of two pipelines, and what is recorded of it; the first alone if the other fails."""
        try:
            live = self.service.pipelines.live(name, {}, (), self.body.user or self.body.session)
            return self._interleaved(one, self._searched(live.pipeline))
        except SearchloraError as error:
            self.service.pipelines.log_failed(name, "interleaved", error)
            return one, None

    def _interleaved(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The result with the hits of two pipelines, and what is recorded of it. Stages of the second follow."""
        method = self.service.config.interleave_method
        hits = {hit["document"]: hit for hit in (*other["hits"], *one["hits"])}
        documents, credits = interleave(
            [hit["document"] for hit in one["hits"]], [hit["document"] for hit in other["hits"]], self.body.top, method
        )
        found = {
            **one,
            "hits": [hits[document] | {"rank": rank} for rank, document in enumerate(documents, 1)],
            "total": max(one["total"], other["total"]),
            "stages": [*one["stages"], *other["stages"]],
            "milliseconds": round(one["milliseconds"] + other["milliseconds"], 2),
        }
        adapters = [[stage["adapter"] for stage in each["stages"] if stage.get("adapter")] for each in (one, other)]
        recorded = {"other": other["pipeline"], "method": method, "credits": [round(each, 4) for each in credits]}
        return found, recorded | {"adapters": adapters}

    def _searched(self, pipeline: Pipeline) -> dict[str, Any]:
        search = before = self._search
        began = time.perf_counter()
        stages: list[dict[str, Any]] = []
        evidence: dict[str, Any] | None = None
        shared = SharedBatches([asking(stage, self._engine) for stage in pipeline.stages], pipeline.settings)
        for number, (_, settings) in enumerate(zip_longest(pipeline.stages, pipeline.settings), 1):
            if self._cancelled.is_set():
                raise ApiError(499, "client_disconnected", "The client has disconnected.")
            rows: list[Mapping[str, Any]] = []
            stage, earlier = shared.stage(number - 1, [before])
            (after,) = execute_stage(stage, settings, [before], number, rows.append, earlier, public_message)
            stages.append(self._shown(rows[0]))
            if self.engine is None:
                self.service.metrics.stage(pipeline.name, rows[0])
            if "undecided" in rows[0]["flags"]:
                self.service.metrics.undecided.labels(stage.label).inc()
            self.on_stage({"type": "stage", **stages[-1]})
            evidence = _evidence(stage, before, after) or evidence
            before = after
        written = result(search, before, ())
        hits = [hit for hit in before.get("hits", ()) if isinstance(hit, Hit)]
        if not hits and self.engine is None:
            self.service.metrics.no_hits.labels(pipeline.name).inc()
        return {
            "object": "search",
            "pipeline": pipeline.name,
            "query": str(before["query"]),
            "hits": [self._hit(pipeline, rank, hit) for rank, hit in enumerate(hits[: self.body.top], 1)],
            "total": len(hits),
            "output": {name: value for name, value in written.items() if name not in NOT_FIELDS},
            "evidence": evidence,
            "stages": stages,
            "milliseconds": round(1000 * (time.perf_counter() - began), 2),
        }

    def _explained(self, pipeline: Pipeline) -> dict[str, Any]:
        document = self.body.explain or ""
        if pipeline.documents and document not in pipeline.documents:
            message = f"There is no document '{document[:64]}' in the corpus."
            raise ApiError(400, "invalid_value", message, param="explain")
        executed = pipeline_asking(pipeline, self._engine)
        explained = explain(executed, self.body.query, document, public_message, **self.body.fields)
        return {"object": "explanation", "pipeline": pipeline.name, **explained.to_json()}

    @property
    def _search(self) -> SearchContext:
        return {"id": "1", "query": self.body.query, **self.body.fields}

    def _shown(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row of the trace: `top` hits of its output, and inputs and requests only if the client asks for them."""
        output = dict(row["output"])
        if "hits" in output:
            output["hits"] = output["hits"][: self.body.top]
        shown = {**row, "output": output, "milliseconds": round(row["milliseconds"], 2)}
        if not self.body.trace:
            return {key: value for key, value in shown.items() if key not in ("input", "requests")}
        if len(requests := row.get("requests", ())) > MAX_REQUESTS:
            shown |= {"requests": requests[:MAX_REQUESTS], "requests_left_out": len(requests) - MAX_REQUESTS}
        return shown

    def _hit(self, pipeline: Pipeline, rank: int, hit: Hit) -> dict[str, Any]:
        document = hit.fetched or pipeline.documents.get(hit.document)
        return {
            "rank": rank,
            "document": hit.document,
            "score": plain(hit.score),
            "title": document.title if document is not None else None,
            "text": document.text if document is not None else None,
        }


def _suspects(pipeline: Pipeline, versions: Sequence[str], error: SearchloraError) -> list[str]:
    """Those of some versions that may have failed: not the adapters of stages other than the one that did."""
    named = [(stage.label, getattr(stage, "adapter", None)) for stage in pipeline.stages]
    failed = {adapter for label, adapter in named if error.stage in (None, label)}
    others = {adapter for _, adapter in named} - failed
    return [version for version in versions if version not in others] or list(versions)


def failed_search(body: SearchRequest, began: float) -> dict[str, Any]:
    """What is recorded of a search that failed."""
    milliseconds = round(1000 * (time.perf_counter() - began), 2)
    found = {"pipeline": body.pipeline, "stages": [], "hits": [], "total": 0, "milliseconds": milliseconds}
    return {**search_event(body, found), FAILED: True}


def search_event(body: SearchRequest, found: Mapping[str, Any]) -> dict[str, Any]:
    """What is recorded of a search: the query, and what each stage made of it; of hits and passages the ids only."""
    return {
        "pipeline": found["pipeline"],
        "query": body.query,
        **({"fields": body.fields} if body.fields else {}),
        **({"slots": body.slots} if body.slots else {}),
        **({"weights": body.weights} if body.weights else {}),
        "stages": [
            {key: stage[key] for key in ("label", "kind", "adapter", "milliseconds", "flags") if key in stage}
            | {"output": {key: value for key, value in stage["output"].items() if key not in ("hits", "passages")}}
            for stage in found["stages"]
        ],
        "hits": [hit["document"] for hit in found["hits"]],
        "total": found["total"],
        "milliseconds": found["milliseconds"],
    }


def _evidence(stage: Stage, before: SearchContext, after: SearchContext) -> dict[str, Any] | None:
    """The sentences of the answer that a stage wrote, with what supports them, and the passages that they cite."""
    if after is before:
        return None
    sentences = [
        sentence
        for task in stage.tasks()
        for output in after.get("outputs", {}).get(task.name, ())
        if not isinstance(output, InvalidOutput)
        for sentence in task.evidence(before, output)
    ]
    if not sentences:
        return None
    cited = sorted({number for sentence in sentences for number in sentence.citations})
    passages = list(before.get("passages", ()))
    return {
        "sentences": [plain(sentence) for sentence in sentences],
        "passages": [
            {
                "number": number,
                "document": str(passages[number - 1]["id"]),
                "title": passages[number - 1].get("title") or "",
                "text": passages[number - 1]["text"],
            }
            for number in cited
            if number <= len(passages)
        ],
    }
