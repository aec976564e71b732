"""Execution of a served pipeline on one query, with the trace of each stage, and the evidence of an answer.

The rows of the trace are those of `pipelines.execution.trace_row`, as `searchlora run --trace` writes them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from searchlora.errors import DeadlineExceeded, EngineBusy, PipelineError, RenderError
from searchlora.events.export import OUTCOME, UNSERVED
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
from searchlora.server.api.disconnect import client_disconnected
from searchlora.server.api.errors import ApiError, public_message
from searchlora.server.api.served_pipelines import LivePipeline, pipeline_message
from searchlora.time_limit import run_in_new_thread

if TYPE_CHECKING:
    from searchlora.server.api.search_schemas import SearchRequest
    from searchlora.server.api.service import Service

#: Requests of a stage that a trace holds; a stage that grades a hundred passages makes a hundred.
MAX_REQUESTS = 50

#: Errors of a stage that reads a field of the request of another form than it expects.
_UNREADABLE_FIELDS = (TypeError, KeyError, ValueError, AttributeError, IndexError)


#: Errors that say nothing about a version: the server is full, or stops.
_NOT_OF_A_VERSION = (EngineBusy, CancelledError)


@dataclass
class _Attempt:
    """One execution of a pipeline, with the label of the stage that is executed."""

    pipeline: Pipeline
    engine: ClientEngine
    stage: str | None = None

    def suspects(self, error: Exception | None = None) -> list[str]:
        """The versions that may have failed: that of the stage that did, or all if it has none."""
        versions = {
            stage.label: adapter for stage in self.pipeline.stages if (adapter := getattr(stage, "adapter", None))
        }
        own = versions.get(getattr(error, "stage", None) or self.stage or "")
        return [own] if own is not None else list(dict.fromkeys(versions.values()))


@dataclass
class SearchJob:
    """One search of a client, which leaves one event, however it ends.

    `on_stage` gets the trace of each stage when it has finished, in the job's thread. A search with an `engine` of its
    own, a shadow search, is neither counted nor recorded here.
    """

    service: Service
    body: SearchRequest
    client_id: str
    on_stage: Callable[[dict[str, Any]], object] = lambda _: None
    engine: ClientEngine | None = None
    _began: float = field(init=False)
    _ended: bool = field(init=False)  # its event is written, or it has none
    _recorded: bool = field(init=False)
    _attempt: _Attempt | None = None
    _failed: dict[str, str] = field(default_factory=dict)  # version -> how it failed
    _given_up: str = ""
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        events, user = self.service.events, self.body.user or self.body.session
        self._recorded = events is not None and self.body.record and events.samples(user)
        self._ended = self.body.explain is not None or self.engine is not None

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancelled.is_set()

    def cancel(self, outcome: str = "cancelled") -> None:
        """Withdraw all requests to the engine, and stop after the stage that is executed."""
        self._given_up = outcome
        self._cancelled.set()
        attempt = self._attempt
        self._end(outcome, blamed=attempt.suspects() if attempt is not None else ())
        if attempt is not None:
            attempt.engine.cancel()

    def run(self) -> dict[str, Any]:
        """Execute the pipeline, and return the body of the response."""
        try:
            return self._answered() if self.body.explain is None else self._explained(self._live().pipeline)
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

    def _answered(self) -> dict[str, Any]:
        """The result of the pipeline, or of two that are interleaved.

        A version that fails, or takes more than half of the time, leaves its place to that in production, and this one
        to that of the server's start.
        """
        found: dict[str, Any] | None = None
        while found is None:
            live = self._live()
            try:
                found = self._tried(live.pipeline, limited=self.engine is None and bool(live.replaceable))
            except Exception as error:
                if set(live.replaceable).isdisjoint(self._blamed(error)):
                    self._end(self._outcome(error))
                    raise
        interleaved: dict[str, Any] | None = None
        first, _, second = (self.service.config.interleave or "").partition("=")
        if first == self.body.pipeline and self._recorded and not (self.body.slots or self.body.weights):
            found, interleaved = self._with_another(found, second)
        event = search_event(self.body, found) | ({INTERLEAVED: interleaved} if interleaved else {})
        id_ = self._end("fell back" if self._failed else "ok", event)
        if id_ is None:
            return found
        if self.service.shadow is not None and interleaved is None:
            versions = {stage["adapter"] for stage in found["stages"] if stage.get("adapter")}
            self.service.shadow.offer(id_, self.body, versions)
        return {"id": id_, **found}

    def _live(self) -> LivePipeline:
        key = self.body.user or self.body.session
        pipelines, body = self.service.pipelines, self.body
        try:
            live = pipelines.live(body.pipeline, body.slots, body.weights, key, self._failed)
        except ApiError:  # it is refused, and has not begun
            self._ended = True
            raise
        except Exception:
            self._end("failed")
            raise
        self._failed = dict.fromkeys(live.failed, "failed") | self._failed
        return live

    def _tried(self, pipeline: Pipeline, *, limited: bool) -> dict[str, Any]:
        """The result of a pipeline; `limited`: within half of the time that is left, after which it goes on unheard."""
        left = max(0.0, self._began + self.service.config.timeout - time.monotonic())
        engine = self.engine or ClientEngine(self.service, self.client_id, seconds=left)
        attempt = self._attempt = _Attempt(pipeline, engine)
        if self.cancelled:  # meanwhile
            engine.cancel()
        if not limited:
            return self._searched(attempt)
        future = run_in_new_thread(lambda: self._searched(attempt), "searchlora-candidate")
        try:
            return future.result(left / 2)
        except TimeoutError:
            if future.done():  # a stage raised it
                raise
            engine.cancel()
            raise DeadlineExceeded(f"took more than {left / 2:.1f} s, half of the time") from None

    def _blamed(self, error: Exception) -> list[str]:
        """The versions that an error speaks against."""
        if self.cancelled or isinstance(error, _NOT_OF_A_VERSION) or self._attempt is None:
            return []
        versions = self._attempt.suspects(error)
        self.service.pipelines.log_failed(self._attempt.pipeline.name, ", ".join(versions), error)
        self._failed |= dict.fromkeys(versions, self._outcome(error))
        return versions

    def _outcome(self, error: Exception) -> str:
        if self.cancelled:
            return self._given_up
        return "timed out" if isinstance(error, DeadlineExceeded) else "failed"

    def _end(self, outcome: str, event: Mapping[str, Any] | None = None, blamed: Sequence[str] = ()) -> str | None:
        """Count the search, and record its event if the server records; only the first call does. Returns the id."""
        with self._lock:
            if self._ended:
                return None
            self._ended = True
        failed = dict.fromkeys(blamed, outcome) | self._failed
        metrics, events = self.service.metrics, self.service.events
        metrics.searches.labels(self.body.pipeline, outcome).inc()
        for version, how in failed.items():
            metrics.unserved.labels(version, how).inc()
        if events is None or not self._recorded:
            return None
        event = event or unanswered_event(self.body, time.monotonic() - self._began)
        more = {OUTCOME: outcome, **({UNSERVED: failed} if failed else {})}
        return events.search({**event, **more}, self.body.session, self.body.user)

    def _with_another(self, one: dict[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The result with the hits of two pipelines, and what is recorded of it; the first alone if the other fails."""
        try:
            live = self.service.pipelines.live(name, {}, (), self.body.user or self.body.session)
            return self._interleaved(one, self._tried(live.pipeline, limited=True))
        except Exception as error:
            self._blamed(error)
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

    def _searched(self, attempt: _Attempt) -> dict[str, Any]:
        pipeline, engine = attempt.pipeline, attempt.engine
        search = before = self._search
        began = time.perf_counter()
        stages: list[dict[str, Any]] = []
        evidence: dict[str, Any] | None = None
        shared = SharedBatches([asking(stage, engine) for stage in pipeline.stages], pipeline.settings)
        for number, (_, settings) in enumerate(zip_longest(pipeline.stages, pipeline.settings), 1):
            rows: list[Mapping[str, Any]] = []
            attempt.stage = pipeline.stages[number - 1].label
            stage, earlier = shared.stage(number - 1, [before])
            (after,) = execute_stage(stage, settings, [before], number, rows.append, earlier, public_message)
            if engine.cancelled:  # nobody waits for it any more
                raise client_disconnected()
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
        self._attempt = _Attempt(pipeline, ClientEngine(self.service, self.client_id))
        executed = pipeline_asking(pipeline, self._attempt.engine)
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


def unanswered_event(body: SearchRequest, seconds: float) -> dict[str, Any]:
    """What is recorded of a search without an answer."""
    found = {"pipeline": body.pipeline, "stages": [], "hits": [], "total": 0, "milliseconds": round(1000 * seconds, 2)}
    return search_event(body, found)


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
