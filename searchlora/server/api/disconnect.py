"""Clients that disconnect before their response is complete, and clients that do not read it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request
from starlette.types import Message, Send

from searchlora.server.api.errors import ApiError

T = TypeVar("T")

#: Seconds for each message that is sent after the deadline, so that a client that reads still gets the error.
_LAST_SECONDS = 5.0


class ResponseNotRead(Exception):
    """The client does not read the response."""


async def unless_disconnected(http: Request, awaitable: Awaitable[T]) -> T:
    """Wait for a result; cancel it when the client disconnects or the handler is cancelled."""
    result, disconnected = asyncio.ensure_future(awaitable), asyncio.ensure_future(_disconnected(http))
    try:
        await asyncio.wait({result, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise client_disconnected()
        return result.result()
    finally:
        disconnected.cancel()
        result.cancel()


def client_disconnected() -> ApiError:
    """The error recorded for a client that has disconnected; it appears in the metrics."""
    return ApiError(499, "client_disconnected", "The client has disconnected.")


def with_write_timeout(send: Send, seconds: float) -> Send:
    """A `send` that fails when the client does not read in time.

    A server's `send` waits while the client's receive window is full, without any limit of its own. After the deadline
    each message has 5 more seconds.
    """
    deadline = time.monotonic() + seconds

    async def send_in_time(message: Message) -> None:
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), _LAST_SECONDS)):
                await send(message)
        except TimeoutError:
            raise ResponseNotRead from None

    return send_in_time


async def _disconnected(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
