"""FastAPI application of the grading page: its files and its JSON endpoints.

The browser receives a pair's query, title and passage and the rater's own earlier rating. It never receives ids of
topics or documents, systems, ranks, scores or other raters' grades: raters are blind.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Response
from fastapi.routing import APIRoute
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from searchlora.server.api.errors import ApiError, ErrorResponses, add_http_errors
from searchlora.server.api.middleware import RequestGuard
from searchlora.server.api.routing import ApiRequest, api_router
from searchlora.server.api.work_queue import FairThreads
from searchlora.server.grading.session import Assignment, Session
from searchlora.server.http import PAGE_HEADERS, PRIVATE_APP, uvicorn_config

if TYPE_CHECKING:
    import uvicorn

_ASSETS = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}

#: Characters of a rater's note.
MAX_NOTE_CHARACTERS = 4000

#: Bytes of a request body. A rating with the longest note has about 25,000.
MAX_BODY_BYTES = 100_000

#: Seconds of a request, until its response is read.
TIMEOUT = 60.0

#: Connections at the same time.
MAX_CONNECTIONS = 500

#: Threads that read and write ratings.
_THREADS = 8

router = api_router()


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


@router.get("/api/task")
def task(http: ApiRequest) -> dict[str, Any]:
    """The guideline, and the scale that it names."""
    guideline = _session(http).guideline
    scale = [{"grade": grade, "name": name} for grade, name in guideline.scale.items()]
    return {"guideline": guideline.text, "scale": scale, "max_note_characters": MAX_NOTE_CHARACTERS}


@router.post("/api/raters/{rater}/next")  # not GET: the request reserves a seat at the pair
def next_pair(http: ApiRequest, rater: str) -> dict[str, Any]:
    """The pair that a rater grades now."""
    session = _session(http)
    return _view(session, rater, session.next(rater, http.client_id))


@router.get("/api/raters/{rater}/before/{pair}")
def pair_before(http: ApiRequest, rater: str, pair: str) -> dict[str, Any]:
    """The pair that a rater graded before another one."""
    session = _session(http)
    assignment = session.before(rater, pair)
    if assignment is None:
        raise ApiError(404, "no_earlier_pair", "There is no earlier pair.")
    return _view(session, rater, assignment)


@router.post("/api/raters/{rater}/ratings")
def rate(http: ApiRequest, rater: str, body: RatingRequest) -> dict[str, Any]:
    """Save a rating; the answer, with the next pair, is sent when it is on disk."""
    session, seconds, note = _session(http), round(body.seconds, 1), body.note.strip()
    session.rate(rater, body.pair, body.grade, seconds=seconds, note=note, address=http.client_id)
    return _view(session, rater, session.next(rater, http.client_id))


def create_app(session: Session, names: Iterable[str] = ()) -> FastAPI:
    """The application for one grading session; `names` are further host names that requests may use."""
    app = FastAPI(title="searchlora grading", **PRIVATE_APP)
    app.state.session, app.state.threads = session, FairThreads(_THREADS, "searchlora-grading")
    app.add_middleware(
        RequestGuard,
        host_names=tuple(names),
        max_body_bytes=MAX_BODY_BYTES,
        timeout=TIMEOUT,
        headers=PAGE_HEADERS,
    )
    app.add_middleware(ErrorResponses)
    app.include_router(router)
    for name in _ASSETS:
        app.get("/" if name == "page.html" else f"/{name}")(_asset(name))
    add_http_errors(app, [route for route in (*router.routes, *app.routes) if isinstance(route, APIRoute)])
    return app


def serve(session: Session, listening: socket.socket, host: str) -> None:
    """Serve the page on a bound socket until interrupted."""
    import uvicorn

    # uvicorn finishes the requests in progress and then raises the interrupt again.
    with suppress(KeyboardInterrupt):
        uvicorn.Server(server_config(session, host)).run(sockets=[listening])


def server_config(session: Session, host: str) -> uvicorn.Config:
    """Settings of the HTTP server. A client on this machine could name any address as its own to a trusted proxy."""
    app = create_app(session, names=[host])
    return uvicorn_config(app, MAX_CONNECTIONS, proxy_headers=False, log_level="error", lifespan="off")


def _session(http: ApiRequest) -> Session:
    session: Session = http.app.state.session
    return session


def _view(session: Session, rater: str, assignment: Assignment | None) -> dict[str, Any]:
    view: dict[str, Any] = {"progress": asdict(session.progress(rater)), "pair": None, "earlier": None}
    if assignment is not None:
        pair, document, earlier = assignment.pair, assignment.pair.document, assignment.earlier
        view["pair"] = {"id": assignment.id, "query": pair.query, "title": document.title, "text": document.text}
        if earlier is not None:
            view["earlier"] = {"grade": earlier.grade, "note": earlier.note}
    return view


def _asset(name: str) -> Callable[[], Response]:
    content = files("searchlora.server.grading").joinpath("assets", name).read_bytes()

    def asset() -> Response:
        return Response(content, media_type=_ASSETS[name])

    return asset
