"""`/v1/adapters/load` and `/v1/adapters/unload`: by name, never by path."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter

from searchlora.errors import DeadlineExceeded, EngineBusy, EngineError
from searchlora.server.api.refusals import Refusal
from searchlora.server.api.service import Service
from searchlora.server.api.threads import in_new_thread
from searchlora.server.api.wire import AdapterRequest

Made = TypeVar("Made")


def routes(service: Service) -> APIRouter:
    """Loading before the first request comes, and making room. Both wait for the engine's next free moment."""
    router = APIRouter()
    one_at_a_time = asyncio.Lock()

    async def done(errand: Callable[[], Made]) -> Made:
        try:
            async with asyncio.timeout(service.settings.seconds), one_at_a_time:
                return await asyncio.wrap_future(in_new_thread(errand))
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before this was done", fix="Ask again later.") from None

    @router.post("/v1/adapters/load")
    async def load(asked: AdapterRequest) -> dict[str, Any]:
        pinned = await done(lambda: service.engine.load(asked.adapter))
        return {"adapter": pinned, "loaded": True}

    @router.post("/v1/adapters/unload")
    async def unload(asked: AdapterRequest) -> dict[str, Any]:
        try:
            was = await done(lambda: service.engine.unload(asked.adapter))
        except (EngineBusy, DeadlineExceeded):
            raise
        except EngineError as error:  # it is in use
            raise Refusal(409, "in_use", str(error), param="adapter") from None
        return {"adapter": asked.adapter, "loaded": False, "was_loaded": was}

    return router
