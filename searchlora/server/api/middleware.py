"""The guard of both servers: authentication, host and origin checks, body size and time limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from searchlora.server.api.disconnect import ResponseNotRead, client_disconnected, with_write_timeout
from searchlora.server.api.errors import ApiError
from searchlora.server.api.keys import ApiKeys
from searchlora.server.http import is_own_host

#: Seconds within which a whole body must arrive.
_BODY_SECONDS = 30.0


class RequestGuard:
    """ASGI middleware of both servers that refuses requests with 401, 403, 408, 413, 503 and 504.

    A request that passes carries its client in `scope["state"]["client_id"]`: the name of an API key, or an address
    where no keys are set; with keys also its `role`, which the routes check. Its response has a write time-out.
    `ErrorResponses` around it answers refused ones.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        timeout: float,
        keys: ApiKeys | None = None,
        host_names: Sequence[str] = (),
        is_open: Callable[[str], bool] = lambda _: False,
        max_active_requests: int = 2048,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._app, self._host_names, self._is_open, self._headers = app, host_names, is_open, headers
        self._max_body_bytes, self._timeout, self._max_active_requests = max_body_bytes, timeout, max_active_requests
        self._keys = keys if keys is not None and keys.required else None
        self._active_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or raise the `ApiError` that refuses it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = with_headers(send, self._headers) if self._headers else send
        if self._is_open(scope["path"]):
            await self._forward(scope, receive, send)
            return
        self._active_requests += 1
        try:
            if self._active_requests > self._max_active_requests:
                message = f"The server is busy with {self._active_requests - 1} requests."
                raise ApiError(503, "busy", message, retry_after=1)
            scope.setdefault("state", {}).update(self._client(scope))
            body = await self._read_body(Headers(scope=scope), receive)
            with suppress(ResponseNotRead):  # the server closes the connection, since the response is incomplete
                await self._forward(scope, _replay(body, receive), with_write_timeout(send, self._timeout))
        finally:
            self._active_requests -= 1

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application; raise 504 if its response has not begun at the time limit."""
        begun = False

        async def tracked_send(message: Message) -> None:
            nonlocal begun
            begun = True
            limit.reschedule(None)
            await send(message)

        try:
            async with asyncio.timeout(self._timeout) as limit:
                await self._app(scope, receive, tracked_send)
        except TimeoutError:
            if begun or not limit.expired():
                raise
            message = "The time limit of the request passed. Allow more time, or ask less."
            raise ApiError(504, "deadline_exceeded", message) from None

    def _client(self, scope: Scope) -> dict[str, str]:
        headers = Headers(scope=scope)
        if self._keys is None:
            self._check_host_and_origin(scope["path"], headers)
            return {"client_id": (scope.get("client") or ("unknown",))[0]}
        scheme, _, key = headers.get("authorization", "").partition(" ")
        caller = self._keys.find(key.strip().encode("latin-1"))
        if scheme.lower() != "bearer" or caller is None:
            raise ApiError(401, "invalid_api_key", "Give an API key of this server: 'Authorization: Bearer KEY'.")
        return {"client_id": caller.name, "role": caller.role}

    def _check_host_and_origin(self, path: str, headers: Headers) -> None:
        """Without API keys, pages of other sites in a browser on this machine must not send requests.

        A link of another site may open any other path than one of an API.
        """
        host = headers.get("host", "")
        if not is_own_host(host, self._host_names):
            message = "This server does not have that host name. Start it with --allowed-host and the name."
            raise ApiError(403, "unknown_host", message)
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        is_foreign = origin is not None and _network_location(origin) != host.lower()
        is_foreign |= path.startswith(("/v1/", "/api/")) and site not in ("same-origin", "none")
        # Of a repeated header another reader might take another value.
        if is_foreign or any(len(headers.getlist(name)) > 1 for name in ("host", "origin", "sec-fetch-site")):
            raise ApiError(403, "foreign_page", "This request comes from a page of another site.")

    async def _read_body(self, headers: Headers, receive: Receive) -> bytes:
        limit = self._max_body_bytes
        too_long = ApiError(413, "body_too_long", f"A body has at most {limit} bytes.")
        content_length = headers.get("content-length", "0")
        if content_length.isdigit() and int(content_length) > limit:
            raise too_long
        body, more = b"", True
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise client_disconnected()
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > limit:
                        raise too_long
        except TimeoutError:
            too_slow = f"The body did not arrive within {_BODY_SECONDS:.0f} seconds."
            raise ApiError(408, "body_too_slow", too_slow, close=True) from None  # what is left of it may still come
        return body


def _network_location(origin: str) -> str | None:
    """Host and port of an `Origin` header; None for anything else than `scheme://host[:port]`."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:  # for example an unclosed bracket
        return None
    location = parts.netloc.lower()
    if parts.scheme not in ("http", "https") or port == 0 or origin.lower() != f"{parts.scheme}://{location}":
        return None
    return location


def with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    """A `send` that adds headers to the response."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return send_with_headers


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was already read, then whatever comes next: the disconnect."""
    body_given = False

    async def next_message() -> Message:
        nonlocal body_given
        if body_given:
            return await receive()
        body_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message
