"""The FastAPI application: middleware, routes, health probes and metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Response
from starlette.concurrency import run_in_threadpool

from searchlora.errors import EngineBusy
from searchlora.server.api import chat, embeddings, models, score
from searchlora.server.api.errors import UnexpectedErrors, add_error_handlers
from searchlora.server.api.metrics import RequestMetrics
from searchlora.server.api.middleware import RequestGuard
from searchlora.server.api.service import Service
from searchlora.server.http import PRIVATE_APP

#: Paths that are metric labels of their own; single models share the label "/v1/models/NAME".
_COUNTED_PATHS = frozenset(
    {
        "/v1/models",
        "/v1/chat/completions",
        "/v1/score",
        "/v1/embeddings",
        "/v1/adapters/load",
        "/v1/adapters/unload",
        "/healthz",
        "/readyz",
        "/metrics",
    }
)


def create_app(service: Service) -> FastAPI:
    """The application of a service. It closes the service's engine at shutdown."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.engine.close, service.settings.timeout)

    app = FastAPI(title="searchlora", lifespan=lifespan, **PRIVATE_APP)
    service.metrics.watch(service.engine.stats)
    add_error_handlers(app)
    for routes in (models.routes, chat.routes, score.routes, embeddings.routes, _probe_routes):
        app.include_router(routes(service))
    app.add_middleware(RequestGuard, settings=service.settings)
    app.add_middleware(UnexpectedErrors)
    app.add_middleware(RequestMetrics, metrics=service.metrics, paths=_COUNTED_PATHS)
    return app


def _probe_routes(service: Service) -> APIRouter:
    """Liveness, readiness (whether a request would be accepted now) and Prometheus metrics."""
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz")
    async def readyz() -> dict[str, str]:
        if service.engine.stats().waiting >= service.settings.max_waiting:
            raise EngineBusy("the queue is full", fix="Ask again later.")
        return {"status": "ready"}

    @router.get("/metrics")
    def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
