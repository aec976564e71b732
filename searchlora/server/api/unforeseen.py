"""Errors that nobody foresaw."""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from searchlora.server.api.refusals import refusal_of

_LOG = logging.getLogger(__name__)


class Unforeseen:
    """ASGI middleware: logs an error with its traceback and answers 500, in a connection that goes on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on. Raises what comes after an answer has begun: the connection must break then."""
        begun = False

        async def send_and_see(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_see)
        except Exception as error:
            if begun or scope["type"] != "http":
                raise
            _LOG.exception("%s %s failed", scope["method"], scope["path"])
            await refusal_of(error).response()(scope, receive, send)
