"""The FastAPI application: middleware, routes, health probes and metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Response

from searchlora import __version__
from searchlora.errors import EngineBusy
from searchlora.server.api import (
    adapters,
    chat,
    completions,
    embeddings,
    judgments,
    models,
    responses,
    score,
    search,
    tasks,
    topics,
)
from searchlora.server.api.errors import STORAGE_UNAVAILABLE, ApiError, UnexpectedErrors, add_error_handlers
from searchlora.server.api.metrics import RequestMetrics
from searchlora.server.api.middleware import RequestGuard
from searchlora.server.api.openapi import openapi_document
from searchlora.server.api.service import Service
from searchlora.server.api.work_queue import in_thread, run_in_new_thread
from searchlora.server.http import PRIVATE_APP
from searchlora.server.playground import page

_LOG = logging.getLogger(__name__)


def create_app(service: Service) -> FastAPI:
    """The application of a service. It closes the service's engine at shutdown."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.wrap_future(run_in_new_thread(service.close))

    app = FastAPI(title="searchlora", lifespan=lifespan, redirect_slashes=False, **PRIVATE_APP)
    service.metrics.watch(service.engine.stats)
    document = openapi_document(__version__)
    add_error_handlers(app, service.check_store, list(document["paths"]))
    generating = (chat.routes, completions.routes, responses.routes)
    searching = (search.routes, judgments.routes, topics.routes, adapters.routes)
    answering = (*generating, score.routes, embeddings.routes, tasks.routes, *searching)
    for routes in (models.routes, *answering, _probe_routes):
        app.include_router(routes(service))
    app.include_router(page.routes())
    app.openapi = lambda: document  # type: ignore[method-assign]
    app.add_middleware(RequestGuard, settings=service.settings)
    app.add_middleware(UnexpectedErrors)
    counted = frozenset(path for path in document["paths"] if "{" not in path) | {
        "/v1/tasks",
        "/v1/jobs",
        "/playground",
    }
    app.add_middleware(RequestMetrics, metrics=service.metrics, paths=counted, access_log=service.access_log)
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
        if missing := await in_thread(service.probe_thread, None, service.missing_files):
            _LOG.error("not ready: files are missing: %s", ", ".join(repr(str(path)) for path in missing))
            raise ApiError(503, "storage_unavailable", STORAGE_UNAVAILABLE)
        return {"status": "ready"}

    @router.get("/metrics")
    async def metrics() -> Response:
        text = await in_thread(service.probe_thread, None, service.metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
