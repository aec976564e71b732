"""Error responses in OpenAI's format, and what turns exceptions into them."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from searchlora.errors import (
    BaseModelError,
    BaseModelMoved,
    DeadlineExceeded,
    EngineBusy,
    InvalidName,
    LoadCheckFailed,
    ManifestError,
    NotInStore,
    PromptTooLong,
    RequestRefused,
    SearchloraError,
    UsageError,
    printable,
)

_LOG = logging.getLogger(__name__)

#: Status and code per exception class; the first class that matches decides.
_STATUS: tuple[tuple[type[SearchloraError], int, str], ...] = (
    (EngineBusy, 503, "busy"),
    (BaseModelMoved, 503, "base_moved"),
    (DeadlineExceeded, 504, "deadline_exceeded"),
    (PromptTooLong, 400, "context_length_exceeded"),
    (RequestRefused, 400, "not_served"),
    (InvalidName, 400, "invalid_name"),
    (NotInStore, 404, "model_not_found"),
    (LoadCheckFailed, 409, "adapter_refused"),
    (ManifestError, 409, "adapter_refused"),
    (UsageError, 400, "invalid_value"),
    (BaseModelError, 503, "storage_unavailable"),
)

#: The folders of an absolute path, all but its last part.
_FOLDERS = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?[/\\](?!v1/)(?:[^/\\\s'\"]+[/\\])*")

#: The address of another server, with its scheme.
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\",)]*")

#: Details in brackets, such as what a database reported.
_DETAIL = re.compile(r"\s*\(.*\)", re.DOTALL)

#: Exceptions that quote the request of the client.
_OF_REQUEST = (InvalidName, RequestRefused)

#: Seconds after which a client may retry a 503: a busy engine has room as soon as one row ends.
_RETRY_AFTER = 1

#: Statuses that OpenAI's client retries by default although the same request would fail the same way.
_NOT_RETRIED = (409, 504)

#: Seconds after which a client may retry when files are missing: somebody has to restore them first.
_STORAGE_RETRY_AFTER = 30

#: Exceptions of files that were moved, deleted or protected while the server runs.
_UNREADABLE = (FileNotFoundError, NotADirectoryError, PermissionError)

#: Message of a 503 when files are missing.
STORAGE_UNAVAILABLE = "A file of the adapter store or of a model cannot be read on the server; its log names the file."

#: How the engine names a single request. The server submits requests one by one, so this name carries no information.
_ONLY_REQUEST = "request 1"


class ApiError(Exception):
    """An error that is sent to the client.

    Examples:
        >>> ApiError(404, "not_found", "Not Found.").body["error"]["code"]
        'not_found'
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
        allow: str | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.retry_after = status, code, message, param, retry_after
        self._allow, self._close = allow, close

    @property
    def body(self) -> dict[str, Any]:
        """`{"error": {"message", "type", "param", "code"}}`."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The HTTP response, with `Retry-After`, `X-Should-Retry` and `WWW-Authenticate` where they apply."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status in _NOT_RETRIED:
            headers["X-Should-Retry"] = "false"
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self._allow is not None:
            headers["Allow"] = self._allow
        if self._close:
            headers["Connection"] = "close"
        return JSONResponse(self.body, self.status, headers)


def api_error_of(error: BaseException) -> ApiError:
    """The error that the client sees for an exception. Unexpected exceptions become 500 without any detail.

    Examples:
        >>> api_error_of(NotInStore("there is no adapter 'a'", where="store")).message
        "store: there is no adapter 'a'."
        >>> api_error_of(KeyError("secret")).message
        'The server failed at this request; its log says why.'
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, _UNREADABLE):
        _LOG.error("a file of the store or of a model cannot be read: %s: %r", error.strerror, error.filename)
        return ApiError(503, "storage_unavailable", STORAGE_UNAVAILABLE, retry_after=_STORAGE_RETRY_AFTER)
    if not isinstance(error, SearchloraError):
        return ApiError(500, "internal_error", "The server failed at this request; its log says why.")
    status, code = next(((status, code) for kind, status, code in _STATUS if isinstance(error, kind)), (500, "failed"))
    return ApiError(status, code, public_message(error), retry_after=_RETRY_AFTER if status == 503 else None)


def api_error_at(error: BaseException, index: int, name: str = "Request", field: str = "requests") -> ApiError:
    """The same for one of several requests: message and parameter name its position, `index` from 0."""
    api_error = api_error_of(error)
    if not isinstance(error, EngineBusy):
        api_error.message = f"{name} {index + 1}: {api_error.message[:1].lower()}{api_error.message[1:]}"
        place = f"{field}.{index}"
        api_error.param = api_error.param and (place if api_error.param == field else f"{place}.{api_error.param}")
    return api_error


def add_http_errors(app: FastAPI, routes: Sequence[APIRoute]) -> None:
    """Answer requests of other paths and methods than `routes` with an `ApiError`."""

    def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return _http_error(error, request.scope["path"], routes).response()

    app.exception_handler(HTTPException)(http_error)


class ErrorResponses:
    """ASGI middleware: answers every exception with an `ApiError`, and logs an unexpected one with its traceback.

    A request that is cancelled because the server stops gets 503. If the response has begun, the exception is raised
    again, so that the connection is closed.
    """

    def __init__(self, app: ASGIApp, check_store: Callable[[], object] = lambda: None) -> None:
        self._app, self._check_store = app, check_store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        response_begun = False

        async def tracked_send(message: Message) -> None:
            nonlocal response_begun
            response_begun = True
            await send(message)

        try:
            await self._app(scope, receive, tracked_send)
        except asyncio.CancelledError:
            if not response_begun:
                stopping = ApiError(503, "stopping", "The server stops, and could not finish this.", retry_after=1)
                await stopping.response()(scope, receive, send)
        except Exception as error:
            if response_begun:
                raise
            api_error = api_error_of(self._reason(error))
            if api_error.code == "internal_error":
                # %r: a path may contain line breaks and terminal escapes, which would forge log lines.
                _LOG.exception("%s %r failed", scope["method"], scope["path"])
            await api_error.response()(scope, receive, send)

    def _reason(self, error: Exception) -> Exception:
        if isinstance(error, NotInStore):
            try:
                self._check_store()
            except FileNotFoundError as missing:
                return missing
        return error


def without_folders(text: str) -> str:
    """A text in which paths of this machine are reduced to their last part.

    Examples:
        >>> without_folders("'/srv/store/a/2/searchlora.json' is missing")
        "'searchlora.json' is missing"
    """
    return _FOLDERS.sub("", text)


def public_text(text: str) -> str:
    """A part of a message without paths of this machine and addresses of other servers.

    Examples:
        >>> public_text("the corpus /srv/shop/corpus.jsonl was changed after postgresql://db:5432/shop was loaded")
        'the corpus corpus.jsonl was changed after another server was loaded'
    """
    return without_folders(_ADDRESS.sub("another server", text))


def public_message(error: SearchloraError) -> str:
    """The exception's message for clients: no path of this machine, and nothing about servers that it asks.

    What is left out of an error of another server, such as a database, is logged.

    Examples:
        >>> public_message(SearchloraError("is damaged", where="/srv/shop/index/vectors.npy", fix="Build it again."))
        'vectors.npy: is damaged. Build it again.'
    """
    where, what, fix = error.where, error.what, error.fix
    if where and "://" in where:
        _LOG.error("another server failed: %s", printable(str(error)))
        where, what = None, _DETAIL.sub("", what)
    elif where == _ONLY_REQUEST:
        where = None
    if not isinstance(error, _OF_REQUEST):  # these quote the request, which may hold slashes
        where = where and (public_text(where) if "(" in where else where.rpartition(os.sep)[2])
        what, fix = public_text(what), fix and public_text(fix)
    message = f"{where}: {what}." if where else f"{what[:1].upper()}{what[1:]}."
    return f"{message} {fix}" if fix else message


def _http_error(error: HTTPException, path: str, routes: Sequence[APIRoute]) -> ApiError:
    """Starlette's own errors: an unknown path, or a method that a path does not have."""
    if error.status_code == 405:
        methods = {method for route in routes if route.path_regex.match(path) for method in route.methods or ()}
        allow = ", ".join(sorted(methods))
        return ApiError(405, "method_not_allowed", f"Method Not Allowed. This path takes {allow}.", allow=allow)
    if error.status_code != 404:
        return ApiError(error.status_code, "invalid_request", f"{error.detail}.")
    paths = list(dict.fromkeys(route.path_format for route in routes))
    meant = next((each for each in (f"/v1{path}", path.rstrip("/"), path.removeprefix("/v1")) if each in paths), None)
    advice = f"Did you mean {meant}?" if meant else f"It has {', '.join(paths)}."
    return ApiError(404, "not_found", f"Not Found. This server has no such path. {advice}")
