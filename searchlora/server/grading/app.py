"""FastAPI application of the grading page: static assets, JSON endpoints and request checks.

The browser receives a pair's query, title and passage and the rater's own earlier rating. It never receives ids of
topics or documents, systems, ranks, scores or other raters' grades: raters are blind.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from searchlora.errors import SearchloraError, UsageError
from searchlora.server.api.disconnect import ResponseNotRead, with_write_timeout
from searchlora.server.api.http_protocol import HttpProtocol
from searchlora.server.grading.session import Assignment, Session
from searchlora.server.http import PAGE_HEADERS, PRIVATE_APP, QUIET_SERVER, is_own_host

if TYPE_CHECKING:
    import uvicorn

_ASSETS = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}

#: Characters of a rater's note.
MAX_NOTE_CHARACTERS = 4000

#: Bytes of a request body. A rating with the longest note has about 25,000.
MAX_BODY_BYTES = 100_000

#: Bytes of a request's headers.
MAX_HEAD_BYTES = 65_536

#: Seconds within which a request body must arrive.
BODY_SECONDS = 30.0

#: Seconds within which a response must be read.
RESPONSE_SECONDS = 60.0

#: Connections at the same time; above half of it those that wait for their client are closed, see `http_protocol`.
MAX_CONNECTIONS = 500


def _no_nul(text: str) -> str:
    """The text. A NUL would make its line in the ratings file malformed, and the file unreadable at the next start."""
    if "\0" in text:
        raise PydanticCustomError("nul", "contains a NUL character")
    return text


class RatingRequest(BaseModel):
    """Body of a rating. `grade` is null for "cannot tell"."""

    model_config = ConfigDict(extra="forbid", strict=True)

    pair: str
    grade: int | None
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    note: Annotated[str, Field(max_length=MAX_NOTE_CHARACTERS), AfterValidator(_no_nul)] = ""


def create_app(session: Session, names: Iterable[str] = ()) -> FastAPI:
    """The application for one grading session.

    Args:
        names: Host names that requests may use, besides localhost, this machine's own name and numeric addresses.
    """
    app = FastAPI(title="searchlora grading", **PRIVATE_APP)
    app.add_middleware(RequestGuard, names=tuple(names))
    app.exception_handler(SearchloraError)(_searchlora_error)
    app.exception_handler(RequestValidationError)(_validation_error)
    for name in _ASSETS:
        app.get("/" if name == "page.html" else f"/{name}")(_asset(name))

    @app.get("/api/task")
    def task() -> dict[str, Any]:
        return {
            "guideline": session.guideline.text,
            "scale": [asdict(grade) for grade in session.guideline.scale],
            "max_note_characters": MAX_NOTE_CHARACTERS,
        }

    # POST, not GET: the request reserves a seat at the pair.
    @app.post("/api/raters/{rater}/next")
    def next_pair(rater: str, request: Request) -> dict[str, Any]:
        return _view(session, rater, session.next(rater, _address(request)))

    @app.get("/api/raters/{rater}/before/{pair}")
    def pair_before(rater: str, pair: str) -> dict[str, Any]:
        assignment = session.before(rater, pair)
        if assignment is None:
            raise HTTPException(404, "There is no earlier pair.")
        return _view(session, rater, assignment)

    @app.post("/api/raters/{rater}/ratings")
    def rate(rater: str, rating: RatingRequest, request: Request) -> dict[str, Any]:
        address = _address(request)
        seconds, note = round(rating.seconds, 1), rating.note.strip()
        session.rate(rater, rating.pair, rating.grade, seconds=seconds, note=note, address=address)
        return _view(session, rater, session.next(rater, address))

    return app


def serve(session: Session, listening: socket.socket, host: str) -> None:
    """Serve the page on a bound socket until interrupted."""
    import uvicorn

    # uvicorn finishes the requests in progress and then raises the interrupt again.
    with suppress(KeyboardInterrupt):
        uvicorn.Server(server_config(session, host)).run(sockets=[listening])


def server_config(session: Session, host: str) -> uvicorn.Config:
    """Settings of the HTTP server: bounded headers, connections and waiting, no log of requests."""
    import uvicorn

    return uvicorn.Config(
        create_app(session, names=[host]),
        http=HttpProtocol,
        proxy_headers=False,  # else a client on this machine could name any address as its own
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        limit_concurrency=MAX_CONNECTIONS + 1,  # uvicorn refuses at that number
        **QUIET_SERVER,
        log_level="error",
        lifespan="off",
    )


class RequestGuard:
    """ASGI middleware that answers only requests of the page itself, and adds `PAGE_HEADERS` to every response.

    It refuses foreign host names (DNS rebinding) and foreign origins (cross-site requests) with 403, and bodies that
    are too long or of undeclared length with 413, before they are read.

    Args:
        names: Host names that requests may use, see `http.is_own_host`.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        self._app = app
        self._names = frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(PAGE_HEADERS)
            await send_in_time(message)

        send_in_time = with_write_timeout(send, RESPONSE_SECONDS)
        headers = Headers(scope=scope)
        answer: ASGIApp = self._app
        if refusal := self._refusal(headers, scope["path"]):
            answer = PlainTextResponse(refusal, status_code=403)
        elif "transfer-encoding" in headers or not _is_short(headers.getlist("content-length")):
            answer = PlainTextResponse("The request body is too long.", status_code=413)
        else:
            try:
                receive = await _whole_body(receive)
            except ClientDisconnect:
                return  # nobody reads an answer, and half a request must not reserve a seat
            except TimeoutError:
                message = f"The body did not arrive within {BODY_SECONDS:.0f} seconds."
                answer = PlainTextResponse(message, status_code=408, headers={"Connection": "close"})
        with suppress(ResponseNotRead):  # the server closes the connection, since the response is incomplete
            await answer(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers, path: str) -> str:
        # Of a repeated header another reader might take another value.
        if any(len(headers.getlist(name)) > 1 for name in ("host", "origin", "sec-fetch-site")):
            return "The request repeats a header."
        host = headers.get("host", "")
        if not is_own_host(host, self._names):
            return f"This server is not reached by the name {host!r}. Start it with --host and that name."
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            return "The request comes from another page."
        # A link on another site may open the page, but API requests must come from the page itself.
        if path.startswith("/api/") and headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return "The request comes from another page."
        return ""


async def _whole_body(receive: Receive) -> Receive:
    """A `receive` for a body that was read.

    Raises:
        TimeoutError: if it does not arrive in time.
        ClientDisconnect: if the connection ends before.
    """
    messages: list[Message] = []
    async with asyncio.timeout(BODY_SECONDS):
        while not messages or messages[-1].get("more_body"):
            messages.append(await receive())
            if messages[-1]["type"] == "http.disconnect":
                raise ClientDisconnect
    messages.reverse()

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


def _is_short(lengths: list[str]) -> bool:
    """Whether the declared lengths of a body are at most one number within `MAX_BODY_BYTES`."""
    if len(lengths) > 1:
        return False
    return all(re.fullmatch(r"[0-9]{1,9}", length) and int(length) <= MAX_BODY_BYTES for length in lengths)


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _view(session: Session, rater: str, assignment: Assignment | None) -> dict[str, Any]:
    view: dict[str, Any] = {"progress": asdict(session.progress(rater)), "pair": None, "earlier": None}
    if assignment is not None:
        pair, earlier = assignment.pair, assignment.earlier
        view["pair"] = {"id": pair.id, "query": pair.query, "title": pair.title, "text": pair.text}
        if earlier is not None:
            view["earlier"] = {"grade": earlier.grade, "note": earlier.note}
    return view


def _asset(name: str) -> Callable[[], Response]:
    content = files("searchlora.server.grading").joinpath("assets", name).read_bytes()

    def asset() -> Response:
        return Response(content, media_type=_ASSETS[name])

    return asset


def _searchlora_error(_: Request, error: Exception) -> JSONResponse:
    """400 for an invalid request, 500 for a valid one that could not be carried out. Paths are not sent."""
    assert isinstance(error, SearchloraError)
    detail = " ".join(filter(None, [f"{error.what}.", error.fix]))
    status = 400 if isinstance(error, UsageError) else 500
    return JSONResponse({"detail": detail[0].upper() + detail[1:]}, status_code=status)


def _validation_error(_: Request, error: Exception) -> JSONResponse:
    """422 naming the invalid field, without its value: it may hold characters that UTF-8 cannot encode."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"detail": f"{'.'.join(map(str, first['loc']))}: {first['msg']}."}, status_code=422)
