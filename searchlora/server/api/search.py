"""`/v1/pipelines` and `/v1/search`: the pipelines of the server, and one query through one of them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter
from starlette.responses import StreamingResponse

from searchlora.errors import DeadlineExceeded
from searchlora.server.api.disconnect import unless_disconnected
from searchlora.server.api.errors import api_error_of
from searchlora.server.api.generation import sent_event
from searchlora.server.api.search_execution import SearchJob
from searchlora.server.api.search_schemas import SearchRequest
from searchlora.server.api.service import Service
from searchlora.server.api.work_queue import run_in_new_thread

_LOG = logging.getLogger(__name__)

_SEARCH = TypeAdapter(SearchRequest)


def routes(service: Service) -> APIRouter:
    """`GET /v1/pipelines` and `POST /v1/search`."""
    router = APIRouter()

    @router.get("/v1/pipelines")
    async def pipelines(http: Request) -> Response:
        def content() -> dict[str, Any]:
            return {"object": "list", "data": [served.described() for _, served in service.pipelines]}

        return await service.json(http.state.caller, content)

    @router.post("/v1/search")
    async def search(http: Request) -> Response:
        body = await service.body(http, _SEARCH)
        caller = http.state.caller
        service.pipelines.get(body.pipeline)  # an unknown one is refused without a thread
        with ExitStack() as admission:
            admission.enter_context(service.admitted(caller))
            if not body.stream:
                return await _whole(service, http, body)
            stream = _SearchStream(service, body, caller)
            admission.callback(stream.cancel)
            first = await unless_disconnected(http, stream.next())  # an error before the first stage has its own status
            events = _events(stream, first, admission.pop_all())
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return router


async def _whole(service: Service, http: Request, body: SearchRequest) -> Response:
    job = SearchJob(service, body, http.state.caller)
    try:
        found = await unless_disconnected(http, _executed(service, job))
    finally:
        job.cancel()
    return await service.json(http.state.caller, lambda: _graded(service, body, found))


async def _executed(service: Service, job: SearchJob) -> dict[str, Any]:
    """The result of a job, which waits for its caller's turn and then has a thread of its own.

    Encoders compute in it, and a thread that computes must not be kept, see `work_queue`.
    """
    return await service.in_task_thread(job.caller, lambda: run_in_new_thread(job.run).result())


@dataclass(frozen=True)
class _Event:
    """A server-sent event, encoded: traces with prompts are large, so that the event loop does not encode them."""

    text: str
    last: bool = False


class _SearchStream:
    """The events of a search, passed from the job's thread to the event loop. Create it in the event loop."""

    def __init__(self, service: Service, body: SearchRequest, caller: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + service.settings.timeout
        self._events: asyncio.Queue[_Event | BaseException] = asyncio.Queue()
        self._job = SearchJob(service, body, caller, self._put)
        self._running = asyncio.ensure_future(self._run(service, body))

    async def next(self) -> _Event:
        """The next event. Raises what the job raises, and `DeadlineExceeded` at the time limit."""
        try:
            async with asyncio.timeout_at(self._deadline):
                event = await self._events.get()
        except TimeoutError:
            message = "the deadline passed before this was done"
            raise DeadlineExceeded(message, fix="Allow more time, or ask less.") from None
        if isinstance(event, BaseException):
            raise event
        return event

    def cancel(self) -> None:
        """Stop the job."""
        self._job.cancel()
        self._running.cancel()

    async def _run(self, service: Service, body: SearchRequest) -> None:
        try:
            found = await _executed(service, self._job)
            result = await service.in_thread(
                self._job.caller, lambda: sent_event({"type": "result", **_graded(service, body, found)})
            )
        except Exception as error:
            self._events.put_nowait(error)
        else:
            self._events.put_nowait(_Event(result, last=True))

    def _put(self, event: dict[str, Any]) -> None:
        encoded = _Event(sent_event(event))
        with suppress(RuntimeError):  # the loop is closed: the server has stopped
            self._loop.call_soon_threadsafe(self._events.put_nowait, encoded)


async def _events(stream: _SearchStream, first: _Event, admission: ExitStack) -> AsyncIterator[str]:
    """Server-sent events: `stage` for each stage, then `result`. An error in the middle is the last event, `error`."""
    try:
        event = first
        yield event.text
        while not event.last:
            event = await stream.next()
            yield event.text
    except Exception as error:
        api_error = api_error_of(error)
        if api_error.code == "internal_error":
            _LOG.exception("a streamed search failed")
        yield f"event: error\ndata: {json.dumps(api_error.body)}\n\n"
    finally:
        admission.close()


def _graded(service: Service, body: SearchRequest, found: dict[str, Any]) -> dict[str, Any]:
    """The answer with the grades of its hits and the measure of its ranking, if the server collects grades."""
    if service.grades is None or "hits" not in found:
        return found
    return found | service.grades.of_search(body.query, found["hits"], body.fields)
