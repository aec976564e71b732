"""The pipelines of the server, one query through one of them, and grades of its hits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from typing import Any

from fastapi import Response

from searchlora.errors import DeadlineExceeded
from searchlora.server.api.disconnect import unless_disconnected
from searchlora.server.api.errors import ApiError
from searchlora.server.api.keys import WRITES
from searchlora.server.api.openapi import EVENTS
from searchlora.server.api.response_schemas import (
    ExplanationResult,
    JudgmentResult,
    ListOf,
    PipelineEntry,
    SearchResult,
)
from searchlora.server.api.routing import ApiRequest, api_router
from searchlora.server.api.search_execution import SearchJob
from searchlora.server.api.search_schemas import JudgmentRequest, SearchRequest
from searchlora.server.api.service import Service
from searchlora.server.api.streams import before, sent_event, streamed

router = api_router()


@router.get("/v1/pipelines", summary="List the pipelines")
def pipelines(http: ApiRequest) -> ListOf[PipelineEntry]:
    """The pipelines of the server with their stages, slots and fields."""
    return {"object": "list", "data": [served.described() for _, served in http.service.pipelines]}


@router.post(
    "/v1/search",
    summary="Search by a pipeline",
    response_model=SearchResult | ExplanationResult,
    responses={200: EVENTS},
)
async def search(http: ApiRequest, body: SearchRequest) -> Response:
    """Execute a pipeline on a query, or say why a document is missing."""
    service = http.service
    service.pipelines.get(body.pipeline)  # an unknown one is refused without a thread
    with ExitStack() as admission:
        admission.enter_context(service.admitted(http.client_id))
        if not body.stream:
            return await _whole(http, body)
        stream = _SearchStream(http, body)
        admission.push(stream.end)
        first = await unless_disconnected(http, stream.next())  # an error before the first stage has its own status
        return streamed(stream.from_first(first), _failed, admission.pop_all())


@router.post("/v1/judgments", summary="Grade a hit", openapi_extra=WRITES)
def judgments(http: ApiRequest, body: JudgmentRequest) -> JudgmentResult:
    """Save a grade, and measure rankings with it."""
    grades = http.service.grades
    if grades is None or not grades.collects:
        message = "This server collects no grades. Start it with --grades FOLDER."
        raise ApiError(404, "grades_not_collected", message)
    saved = grades.rate(body.query, body.document, body.grade, body.rater, body.seconds, body.rankings, body.fields)
    return {"object": "judgment", **saved}  # type: ignore[typeddict-item]


async def _whole(http: ApiRequest, body: SearchRequest) -> Response:
    job = SearchJob(http.service, body, http.client_id)
    try:
        result = await unless_disconnected(http, _executed(http.service, job))
    except asyncio.CancelledError:
        job.cancel("timed out")  # the server waits no longer
        raise
    finally:
        job.cancel()
    return await http.json_response(lambda: _graded(http.service, body, result))


async def _executed(service: Service, job: SearchJob) -> dict[str, Any]:
    """The result of a job, which waits for its client's turn."""
    return await service.in_task_thread(job.client_id, job.run)


class _SearchStream:
    """The events of a search, passed from the job's thread to the event loop. Create it in the event loop.

    They are encoded in threads, since traces with prompts are large.
    """

    def __init__(self, http: ApiRequest, body: SearchRequest) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[str | BaseException | None] = asyncio.Queue()  # None at the end
        self._job = SearchJob(http.service, body, http.client_id, self._put)
        self._deadline = self._loop.time() + http.service.config.timeout
        self._running = asyncio.ensure_future(self._run(http, body))

    async def next(self) -> str | None:
        """The next event; None at the end. Raises what the job raises, and `DeadlineExceeded` at the time limit."""
        try:
            event = await before(self._deadline, self._events.get())
        except DeadlineExceeded:
            self._job.cancel("timed out")
            raise
        if isinstance(event, BaseException):
            raise event
        return event

    async def from_first(self, event: str | None) -> AsyncIterator[str]:
        """The first event, and all that follow: `stage` for each stage, then `result`."""
        while event is not None:
            yield event
            event = await self.next()

    def end(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop the job, at the end of a `with` block."""
        self._job.cancel("timed out" if kind is asyncio.CancelledError else "cancelled")
        self._running.cancel()

    async def _run(self, http: ApiRequest, body: SearchRequest) -> None:
        try:
            found = await _executed(http.service, self._job)
            result = await http.in_thread(lambda: sent_event({"type": "result", **_graded(http.service, body, found)}))
        except Exception as error:
            self._events.put_nowait(error)
        else:
            self._events.put_nowait(result)
            self._events.put_nowait(None)

    def _put(self, event: dict[str, Any]) -> None:
        encoded = sent_event(event)
        with suppress(RuntimeError):  # the loop is closed: the server has stopped
            self._loop.call_soon_threadsafe(self._events.put_nowait, encoded)


def _failed(error: ApiError) -> list[str]:
    return [f"event: error\n{sent_event(error.body)}"]


def _graded(service: Service, body: SearchRequest, found: dict[str, Any]) -> dict[str, Any]:
    """The answer with the grades of its hits and the measure of its ranking, if the server collects grades."""
    if service.grades is None or "hits" not in found:
        return found
    return found | service.grades.of_search(body.query, found["hits"], body.fields)
