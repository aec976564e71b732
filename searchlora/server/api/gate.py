"""What every request passes first: whose it is, whether it may ask, and how long its body is."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from searchlora.server.api.leaving import gone
from searchlora.server.api.rates import Rates
from searchlora.server.api.refusals import Refusal
from searchlora.server.api.sending import NotRead, in_time
from searchlora.server.api.settings import Settings
from searchlora.server.binding import is_own

#: Asked by those who look after the server, with no key.
_OPEN = ("/healthz", "/readyz")

#: Within which a body must have come.
_BODY_SECONDS = 30.0


class Gate:
    """ASGI middleware: answers 401, 403, 408, 413, 429 or 503 itself; what passes has its caller in `scope["state"]`,
    and its answer breaks off when nobody reads it.

    A caller is an API key, or where there are none the address that the request came from.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._keys = [_digest(key.encode()) for key in settings.keys]
        self._rates = Rates(settings.per_minute) if settings.per_minute else None
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in _OPEN:
            await self._app(scope, receive, send)
            return
        self._inside += 1
        try:
            await self._pass_on(scope, receive, send)
        finally:
            self._inside -= 1

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self._inside > self._settings.at_once:
                raise Refusal(503, "busy", f"The server is busy with {self._inside - 1} requests.", retry_after=1)
            scope.setdefault("state", {})["caller"] = self._caller(scope)
            body = await self._body(Headers(scope=scope), receive)
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
            return
        with suppress(NotRead):  # its connection is closed, since the answer is not whole
            await self._app(scope, _again(body, receive), in_time(send, self._settings.seconds))

    def _caller(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        if self._keys:
            caller = self._key(headers)
        else:
            self._check_page(headers)
            caller = (scope.get("client") or ("unknown",))[0]
        if self._rates and scope["method"] == "POST" and (wait := self._rates.wait(caller)):
            most = self._settings.per_minute
            raise Refusal(429, "rate_limit_exceeded", f"No more than {most} requests a minute.", retry_after=wait)
        return caller

    def _key(self, headers: Headers) -> str:
        kind, _, given = headers.get("authorization", "").partition(" ")
        digest = _digest(given.strip().encode("latin-1"))
        # All of them, each in constant time: how long it takes tells nothing about any key.
        found = [hmac.compare_digest(digest, key) for key in self._keys]
        if kind.lower() != "bearer" or not any(found):
            raise Refusal(401, "invalid_api_key", "Give an API key of this server: 'Authorization: Bearer KEY'.")
        return f"key {found.index(True)}"

    def _check_page(self, headers: Headers) -> None:
        """Without keys, pages of other sites in a browser on this machine must not ask."""
        host = headers.get("host", "")
        if not is_own(host, self._settings.names):
            raise Refusal(403, "unknown_host", "This server does not go by that name. Start it with --name and it.")
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            raise Refusal(403, "foreign_page", "This request comes from another page.")

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        too_long = Refusal(413, "body_too_long", f"A body has no more than {self._settings.body_bytes} bytes.")
        stated = headers.get("content-length", "0")
        if stated.isdigit() and int(stated) > self._settings.body_bytes:
            raise too_long
        body, more = b"", True
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise gone()
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self._settings.body_bytes:
                        raise too_long
        except TimeoutError:
            raise Refusal(408, "body_too_slow", f"The body did not come within {_BODY_SECONDS:.0f} seconds.") from None
        return body


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # a bracket that is not closed, for one
        return None


def _digest(key: bytes) -> bytes:
    """Of one length for all keys, which is as little to be told as the keys."""
    return hashlib.sha256(key).digest()


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read already, and then what else comes: that the client has gone."""
    read = False

    async def next_message() -> Message:
        nonlocal read
        if read:
            return await receive()
        read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message
