"""Answers to clients that do not read them."""

from __future__ import annotations

import asyncio
import time

from starlette.types import Message, Send

#: For each part that is sent after the deadline: the word that it has passed, to a client that does read.
_LAST_SECONDS = 5.0


class NotRead(Exception):
    """A client that does not read what is sent."""


def in_time(send: Send, seconds: float) -> Send:
    """Sends until a deadline, and hardly longer.

    A server waits with sending as long as the client's side of the connection is full, which would be for ever.

    Args:
        seconds: From now.

    Raises:
        NotRead: from what is returned, when a part cannot be sent in time.
    """
    deadline = time.monotonic() + seconds

    async def send_in_time(message: Message) -> None:
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), _LAST_SECONDS)):
                await send(message)
        except TimeoutError:
            raise NotRead from None

    return send_in_time
