"""`/v1/embeddings`."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from searchlora.errors import DeadlineExceeded
from searchlora.retrieval.encoder import Vectors
from searchlora.server.api.leaving import unless_gone
from searchlora.server.api.service import Service
from searchlora.server.api.wire import EmbeddingRequest


def routes(service: Service) -> APIRouter:
    """Vectors of texts by an encoder or an adapter of one."""
    router = APIRouter()

    @router.post("/v1/embeddings")
    async def embeddings(asked: EmbeddingRequest, http: Request) -> dict[str, Any]:
        pinned = await run_in_threadpool(service.encoders.pinned, asked.model)
        seconds = service.settings.seconds
        future = service.encoders.submit(pinned, asked.input, asked.dimensions, cut=asked.truncate, seconds=seconds)
        try:
            async with asyncio.timeout(seconds):
                embedded = await unless_gone(http, asyncio.wrap_future(future))
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before this was done", fix="Ask for fewer texts.") from None
        service.metrics.tokens.labels(pinned, "embedded").inc(embedded.tokens)
        return {
            "object": "list",
            "model": pinned,
            "data": [
                {"object": "embedding", "index": place, "embedding": vector}
                for place, vector in enumerate(_written(embedded.vectors, asked.encoding_format == "base64"))
            ],
            "usage": {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens},
        }

    return router


def _written(vectors: Vectors, base64_: bool) -> list[Any]:
    """Numbers, or the bytes of little-endian float32 in base64, as the official client asks for."""
    if not base64_:
        return list(vectors.tolist())
    return [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
