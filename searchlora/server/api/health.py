"""`/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

from fastapi import APIRouter, Response

from searchlora.errors import EngineBusy
from searchlora.server.api.service import Service


def routes(service: Service) -> APIRouter:
    """Whether the server lives, whether it would take a request now, and what it has done."""
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz")
    async def readyz() -> dict[str, str]:
        stats = service.engine.stats()
        if stats.waiting >= service.settings.waiting:
            raise EngineBusy("the queue is full", fix="Ask again later.")
        return {"status": "ready"}

    @router.get("/metrics")
    def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
