"""The HTTP face of a grading session: the page, and the few requests that it makes.

What a browser gets to know of a pair is query, title, passage, and what this rater said about it: no ids, no system,
no rank, no score, no grade of anybody else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from searchlora.errors import SearchloraError, UsageError
from searchlora.server.closed import CLOSED
from searchlora.server.grading.guard import Guard
from searchlora.server.grading.session import Session, Shown

_ASSETS = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_LONGEST_NOTE = 4000


class Given(BaseModel):
    """What a rater says about a pair. `grade` is null for "cannot tell"."""

    model_config = ConfigDict(extra="forbid", strict=True)

    pair: str
    grade: int | None
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    note: Annotated[str, Field(max_length=_LONGEST_NOTE)] = ""


def create_app(session: Session, names: Iterable[str] = ()) -> FastAPI:
    """The application over a session.

    Args:
        names: Host names, besides localhost, this machine's own, and addresses in digits, by which it may be reached.
    """
    app = FastAPI(title="searchlora grading", **CLOSED)
    app.add_middleware(Guard, names=tuple(names))
    app.exception_handler(SearchloraError)(_complaint)
    app.exception_handler(RequestValidationError)(_misfit)
    for name in _ASSETS:
        app.get("/" if name == "page.html" else f"/{name}")(_asset(name))

    @app.get("/api/task")
    def task() -> dict[str, Any]:
        return {
            "guideline": session.guideline.text,
            "scale": [asdict(grade) for grade in session.guideline.scale],
            "longest_note": _LONGEST_NOTE,
        }

    # Looking takes a seat at the pair, so it is no GET.
    @app.post("/api/raters/{rater}/next")
    def next_pair(rater: str) -> dict[str, Any]:
        return _view(session, rater, session.next(rater))

    @app.get("/api/raters/{rater}/before/{pair}")
    def pair_before(rater: str, pair: str) -> dict[str, Any]:
        shown = session.before(rater, pair)
        if shown is None:
            raise HTTPException(404, "There is nothing before this one.")
        return _view(session, rater, shown)

    @app.post("/api/raters/{rater}/ratings")
    def rate(rater: str, given: Given) -> dict[str, Any]:
        session.rate(rater, given.pair, given.grade, seconds=round(given.seconds, 1), note=given.note.strip())
        return _view(session, rater, session.next(rater))

    return app


def _view(session: Session, rater: str, shown: Shown | None) -> dict[str, Any]:
    view: dict[str, Any] = {"progress": asdict(session.progress(rater)), "pair": None, "earlier": None}
    if shown is not None:
        pair = shown.pair
        view["pair"] = {"id": pair.id, "query": pair.query, "title": pair.title, "text": pair.text}
        if shown.earlier is not None:
            view["earlier"] = {"grade": shown.earlier.grade, "note": shown.earlier.note}
    return view


def _asset(name: str) -> Any:
    content = files("searchlora.server.grading").joinpath("assets", name).read_bytes()

    def asset() -> Response:
        return Response(content, media_type=_ASSETS[name])

    return asset


def _complaint(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SearchloraError)
    said = " ".join(filter(None, [f"{error.what}.", error.fix]))
    # 400: the request is wrong; 500: it is right, and could not be carried out.
    return JSONResponse(
        {"detail": said[0].upper() + said[1:]}, status_code=400 if isinstance(error, UsageError) else 500
    )


def _misfit(_: Request, error: Exception) -> JSONResponse:
    """What does not fit `Given`, without repeating it: it may hold what cannot be sent back."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"detail": f"{'.'.join(map(str, first['loc']))}: {first['msg']}."}, status_code=422)
