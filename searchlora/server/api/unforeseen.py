"""Errors that nobody foresaw, and requests that the server, which stops, does not wait for any longer."""

from __future__ import annotations

import asyncio
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from searchlora.server.api.refusals import Refusal, refusal_of

_LOG = logging.getLogger(__name__)


class Unforeseen:
    """ASGI middleware: logs an error with its traceback and answers 500, in a connection that goes on.

    What is cut when the server stops gets 503, and a stream that has begun breaks off.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on. Raises what comes after an answer has begun: the connection must break then."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_and_see(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_see)
        except asyncio.CancelledError:
            if not begun:
                stopping = Refusal(503, "stopping", "The server stops, and could not finish this.", retry_after=1)
                await stopping.response()(scope, receive, send)
        except Exception as error:
            if begun:
                raise
            _LOG.exception("%s %s failed", scope["method"], scope["path"])
            await refusal_of(error).response()(scope, receive, send)
