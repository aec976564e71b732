"""Responses of server-sent events."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from searchlora.errors import DeadlineExceeded
from searchlora.server.api.errors import ApiError, api_error_of

T = TypeVar("T")

_LOG = logging.getLogger(__name__)


def sent_event(event: Mapping[str, Any]) -> str:
    """A server-sent event, named by its `type` if it has one."""
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n"


async def before(deadline: float, awaitable: Awaitable[T]) -> T:
    """A result that is there before a time of the event loop. Raises `DeadlineExceeded` otherwise."""
    try:
        async with asyncio.timeout_at(deadline):
            return await awaitable
    except TimeoutError:
        message = "the deadline passed before this was done"
        raise DeadlineExceeded(message, fix="Allow more time, or ask less.") from None


def streamed(
    events: AsyncIterator[str], failed: Callable[[ApiError], Iterable[str]], cleanup: ExitStack
) -> StreamingResponse:
    """The response of a stream of events."""

    async def guarded() -> AsyncIterator[str]:
        try:
            async for event in events:
                yield event
        except Exception as error:
            api_error = api_error_of(error)
            if api_error.code == "internal_error":
                _LOG.exception("a stream failed")
            for event in failed(api_error):
                yield event

    return _Streamed(guarded(), cleanup)


class _Streamed(StreamingResponse):
    """A stream whose `cleanup` is closed however it ends, even if the client has gone before it begins."""

    def __init__(self, events: AsyncIterator[str], cleanup: ExitStack) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._cleanup = cleanup

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._cleanup:
            await super().__call__(scope, receive, send)
