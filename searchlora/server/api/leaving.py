"""Clients that leave before they are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request

from searchlora.server.api.refusals import Refusal

Wanted = TypeVar("Wanted")


async def unless_gone(http: Request, wanted: Awaitable[Wanted]) -> Wanted:
    """What is waited for; it is cancelled when the client goes, and when the server gives up.

    Raises:
        Refusal: 499, which nobody reads, when the client has gone.
    """
    answer, left = asyncio.ensure_future(wanted), asyncio.ensure_future(_left(http))
    try:
        await asyncio.wait({answer, left}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise gone()
        return answer.result()
    finally:
        left.cancel()
        answer.cancel()


def gone() -> Refusal:
    """What a client is told that has gone; it is counted."""
    return Refusal(499, "client_gone", "The client has gone.")


async def _left(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
