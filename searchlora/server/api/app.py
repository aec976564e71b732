"""The application: routes, and what every request passes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from searchlora.server.api import adapters, chat, embeddings, health, models, score
from searchlora.server.api.gate import Gate
from searchlora.server.api.metrics import Counted
from searchlora.server.api.refusals import add_refusals
from searchlora.server.api.service import Service
from searchlora.server.api.unforeseen import Unforeseen
from searchlora.server.closed import CLOSED

#: That are counted under their names; those of single models are counted as one.
_PATHS = frozenset(
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
    """The application over an engine, which it closes when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.engine.close, service.settings.seconds)

    app = FastAPI(title="searchlora", lifespan=lifespan, **CLOSED)
    service.metrics.watch(service.engine.stats)
    add_refusals(app)
    for room in (models, chat, score, embeddings, adapters, health):
        app.include_router(room.routes(service))
    app.add_middleware(Gate, settings=service.settings)
    app.add_middleware(Unforeseen)
    app.add_middleware(Counted, metrics=service.metrics, paths=_PATHS)
    return app
