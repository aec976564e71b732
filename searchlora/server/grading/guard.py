"""Answers go to this server's own page and to nobody else's, and pages may load nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from searchlora.server.binding import is_own

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


#: Bytes of a request's body. A grade with the longest note has some 25,000.
LONGEST = 100_000


class Guard:
    """ASGI middleware: refuses requests that came by a foreign name or from a foreign page, and adds `HEADERS`.

    A body that is too long is refused before it is read; so is one that does not say how long it is.

    Args:
        names: By which it may be reached, see `binding.is_own`.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        self._app = app
        self._names = frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it with 403 or 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        answer: ASGIApp = self._app
        if refusal := self._refusal(headers, scope["path"]):
            answer = PlainTextResponse(refusal, status_code=403)
        elif "transfer-encoding" in headers or int(headers.get("content-length", 0)) > LONGEST:
            answer = PlainTextResponse("This request is too long.", status_code=413)
        await answer(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers, path: str) -> str:
        host = headers.get("host", "")
        if not is_own(host, self._names):
            return f"This server does not go by the name {host!r}. Start it with --host and that name."
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return "This request comes from another page."
        # A link from elsewhere may lead to the page; what the page asks for must come from the page.
        if path.startswith("/api/") and headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return "This request comes from another page."
        return ""
