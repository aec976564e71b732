"""What a caller is told when a request is not answered: a status, and OpenAI's object of an error."""

from __future__ import annotations

import os
import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from searchlora.errors import (
    BaseModelError,
    DeadlineExceeded,
    EngineBusy,
    InvalidName,
    LoadCheckFailed,
    ManifestError,
    NotInStore,
    PromptTooLong,
    RequestRefused,
    SearchloraError,
    StoreError,
    UsageError,
)

#: The first class that an error is of decides.
_STATUS: tuple[tuple[type[SearchloraError], int, str], ...] = (
    (EngineBusy, 503, "busy"),
    (DeadlineExceeded, 504, "deadline_exceeded"),
    (PromptTooLong, 400, "context_length_exceeded"),
    (RequestRefused, 400, "not_served"),
    (InvalidName, 400, "invalid_name"),
    (NotInStore, 404, "model_not_found"),
    (LoadCheckFailed, 409, "adapter_refused"),
    (ManifestError, 409, "adapter_refused"),
    (UsageError, 400, "invalid_value"),
)

#: What stands before the last part of an absolute path.
_FOLDERS = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?[/\\](?:[^/\\\s'\"]+[/\\])*")

_JSON = re.compile(r"\s*application/([\w.+-]+\+)?json\s*(;|$)", re.IGNORECASE)

_RETRY_AFTER = 1  # seconds; a busy engine has room again as soon as a row ends


#: Which clients would try again by themselves (OpenAI's does): the same work would be done again, and again in vain.
_FINAL = (409, 504)

#: What an engine calls the request that a refusal is of. The server hands them over one by one, so it says nothing.
_ONLY = "request 1"


class Refusal(Exception):
    """A request that is not answered.

    Args:
        param: The field of the request concerned.
        retry_after: Seconds after which it may be tried again.
    """

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.retry_after = status, code, message, param, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """`{"error": {"message", "type", "param", "code"}}`."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole answer."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status in _FINAL:
            headers["X-Should-Retry"] = "false"
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body, self.status, headers)


def refusal_of(error: BaseException) -> Refusal:
    """What a caller is told of an error. Nothing is told of one that was not foreseen."""
    if isinstance(error, Refusal):
        return error
    if not isinstance(error, SearchloraError):
        return Refusal(500, "internal_error", "The server failed at this request; its log says why.")
    status, code = next(((status, code) for kind, status, code in _STATUS if isinstance(error, kind)), (500, "failed"))
    return Refusal(status, code, _said(error), retry_after=_RETRY_AFTER if status == 503 else None)


def refusal_among(error: BaseException, place: int) -> Refusal:
    """The same where it is of one of several requests, of which it names the place (from 0)."""
    refusal = refusal_of(error)
    if not isinstance(error, EngineBusy):
        refusal.message = f"Request {place + 1}: {refusal.message[:1].lower()}{refusal.message[1:]}"
        refusal.param = refusal.param and f"requests.{place}.{refusal.param}"
    return refusal


def add_refusals(app: FastAPI) -> None:
    """Let every error that was foreseen be answered in this form."""

    def refused(_: Request, error: Exception) -> JSONResponse:
        return refusal_of(error).response()

    for kind in (Refusal, SearchloraError):
        app.exception_handler(kind)(refused)
    app.exception_handler(RequestValidationError)(_misfit)
    app.exception_handler(HTTPException)(_not_there)


def _said(error: SearchloraError) -> str:
    """The error's words, without the folders of this machine that a store or a base may tell."""
    tells = isinstance(error, (StoreError, BaseModelError)) and not isinstance(error, InvalidName)
    what = _FOLDERS.sub("", error.what) if tells else error.what
    if error.where and error.where != _ONLY:
        said = f"{error.where.rpartition(os.sep)[2] if tells else error.where}: {what}."
    else:
        said = f"{what[:1].upper()}{what[1:]}."
    return f"{said} {error.fix}" if error.fix else said


def _misfit(request: Request, error: Exception) -> JSONResponse:
    """A body that does not fit, without repeating it: it may hold what cannot be sent back."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    kind, said = first["type"], first["msg"]
    # "<one>" and the like name a form of the body, see `wire.ScoreBody`, and no field.
    field = ".".join(str(part) for part in first["loc"][1:] if not str(part).startswith("<"))
    if not _JSON.match(request.headers.get("content-type", "")):
        said = "The body is not sent as JSON: set the header 'Content-Type: application/json'."
        return Refusal(400, "invalid_json", said).response()
    if kind == "json_invalid":
        return Refusal(400, "invalid_json", f"The body is not JSON: {first['ctx']['error']}.").response()
    if kind == "extra_forbidden":
        return Refusal(400, "unknown_parameter", f"There is no parameter '{field}'.", param=field).response()
    code = {"missing": "missing_parameter", "not_offered": "not_offered"}.get(kind, "invalid_value")
    return Refusal(400, code, f"{field or 'The body'}: {said}.", param=field or None).response()


def _not_there(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    return Refusal(error.status_code, code, f"{error.detail}.").response()
