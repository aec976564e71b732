"""The FastAPI application: routes, middleware, health probes and metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Response
from fastapi.routing import APIRoute
from starlette.responses import PlainTextResponse

from searchlora.errors import EngineBusy
from searchlora.server.api import (
    adapters,
    chat,
    completions,
    embeddings,
    events,
    models,
    production,
    score,
    search,
    tasks,
    topics,
)
from searchlora.server.api.errors import STORAGE_UNAVAILABLE, ApiError, ErrorResponses, add_http_errors
from searchlora.server.api.keys import ApiKeys
from searchlora.server.api.metrics import RequestMetrics
from searchlora.server.api.middleware import RequestGuard
from searchlora.server.api.openapi import openapi_document
from searchlora.server.api.response_schemas import Status
from searchlora.server.api.routing import ApiRequest, api_router
from searchlora.server.api.service import Service
from searchlora.server.api.work_queue import in_thread
from searchlora.server.http import PRIVATE_APP
from searchlora.server.playground import page
from searchlora.time_limit import run_in_new_thread

_LOG = logging.getLogger(__name__)


#: Paths that need no API key: probes of an orchestrator, and the page, which asks for the key.
_PROBES = ("/healthz", "/readyz")

_probe_router = api_router()


@_probe_router.get("/healthz", summary="Liveness probe")
async def healthz(http: ApiRequest) -> Status:
    """Whether the server lives."""
    del http
    return {"status": "alive"}


@_probe_router.get("/readyz", summary="Readiness probe")
async def readyz(http: ApiRequest) -> Status:
    """Whether a request would be accepted now."""
    service = http.service
    if service.draining.is_set():
        raise ApiError(503, "stopping", "The server was told to stop.")
    if service.engine.stats().waiting >= service.config.waiting:
        raise EngineBusy("the queue is full", fix="Ask again later.")
    if missing := await in_thread(service.probe_thread, None, service.missing_files):
        _LOG.error("not ready: files are missing: %s", ", ".join(repr(str(path)) for path in missing))
        raise ApiError(503, "storage_unavailable", STORAGE_UNAVAILABLE)
    return {"status": "ready"}


@_probe_router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
async def metrics(http: ApiRequest) -> Response:
    """All metrics in Prometheus' text format."""
    text = await in_thread(http.service.probe_thread, None, http.service.metrics.text)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


_MODULES = (
    models,
    chat,
    completions,
    score,
    embeddings,
    tasks,
    search,
    events,
    topics,
    adapters,
    production,
    page,
)
_ROUTERS = [*(module.router for module in _MODULES), _probe_router]

#: All routes of the server, and their paths.
ROUTES = [route for router in _ROUTERS for route in router.routes if isinstance(route, APIRoute)]
PATHS = list(dict.fromkeys(route.path_format for route in ROUTES))


def document() -> dict[str, Any]:
    """The OpenAPI document of the server."""
    return openapi_document(ROUTES, [path for path in PATHS if _is_open(path)])


def create_app(service: Service, *, max_active_requests: int | None = None) -> FastAPI:
    """The application of a service, which it closes at shutdown."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.wrap_future(run_in_new_thread(service.close))

    app = FastAPI(title="searchlora", lifespan=lifespan, redirect_slashes=False, **PRIVATE_APP)
    app.state.service, app.state.threads = service, service.threads
    app.openapi = document  # type: ignore[method-assign]
    service.metrics.watch(service.engine.stats)
    service.fingerprints  # noqa: B018  # computed now, and not by the first request
    add_http_errors(app, ROUTES)
    for router in _ROUTERS:
        app.include_router(router)
    config = service.config
    app.add_middleware(
        RequestGuard,
        keys=ApiKeys(config.api_keys, config.keys),
        host_names=(config.host, *config.allowed_hosts),
        is_open=_is_open,
        max_body_bytes=config.max_body,
        timeout=config.timeout,
        max_active_requests=max_active_requests or config.max_active_requests,
    )
    app.add_middleware(ErrorResponses, check_store=service.check_store)
    counted = frozenset(path for path in PATHS if "{" not in path) | {"/v1/tasks", "/playground"}
    app.add_middleware(
        RequestMetrics, metrics=service.metrics, paths=counted, access_log=service.access_log and service.access_log[0]
    )
    return app


def _is_open(path: str) -> bool:
    return path in _PROBES or page.is_page(path)
