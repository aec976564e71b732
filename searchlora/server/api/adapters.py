"""`/v1/adapters/load` and `/v1/adapters/unload`: by name, never by path."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter

from searchlora.errors import EngineError
from searchlora.server.api.refusals import Refusal
from searchlora.server.api.service import Service
from searchlora.server.api.threads import in_new_thread
from searchlora.server.api.wire import AdapterRequest


def routes(service: Service) -> APIRouter:
    """Loading before the first request comes, and making room. Both wait for the engine's next free moment."""
    router = APIRouter()

    @router.post("/v1/adapters/load")
    async def load(asked: AdapterRequest) -> dict[str, Any]:
        try:
            pinned = await asyncio.wrap_future(in_new_thread(lambda: service.engine.load(asked.adapter)))
        except EngineError as error:
            raise _conflict(error) from None
        return {"adapter": pinned, "loaded": True}

    @router.post("/v1/adapters/unload")
    async def unload(asked: AdapterRequest) -> dict[str, Any]:
        try:
            was = await asyncio.wrap_future(in_new_thread(lambda: service.engine.unload(asked.adapter)))
        except EngineError as error:
            raise _conflict(error) from None
        return {"adapter": asked.adapter, "loaded": False, "was_loaded": was}

    return router


def _conflict(error: EngineError) -> Refusal:
    """It is in use, or all slots are."""
    return Refusal(409, "in_use", str(error), param="adapter")
