"""`/v1/embeddings`: vectors of texts in the format of OpenAI."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter

from searchlora.server.api.disconnect import unless_disconnected
from searchlora.server.api.encoders import Embedded, readable
from searchlora.server.api.schemas import EmbeddingRequest
from searchlora.server.api.token_arrays import text_of

if TYPE_CHECKING:
    from searchlora.server.api.service import Service


_BODY = TypeAdapter(EmbeddingRequest)


def routes(service: Service) -> APIRouter:
    """`POST /v1/embeddings`."""
    router = APIRouter()

    @router.post("/v1/embeddings")
    async def embeddings(http: Request) -> Response:
        body = await service.body(http, _BODY)
        encoders, caller = service.encoders, http.state.caller
        with service.admitted(caller):
            pinned = await service.in_thread(caller, lambda: encoders.pin(body.model))
            timeout = service.settings.timeout
            loading = encoders.load(pinned, timeout=timeout, caller=caller)
            encoder = await unless_disconnected(http, asyncio.wrap_future(loading))
            tokenizer = encoder.model.tokenizer if body.token_ids == "model" else None
            texts = await service.in_thread(
                caller,
                lambda: readable(
                    encoder, pinned, [text_of(item, tokenizer) for item in body.input], truncate=body.truncate
                ),
            )
            are_documents = body.input_type == "document"
            future = encoders.submit(
                pinned, texts, body.dimensions, documents=are_documents, timeout=timeout, caller=caller
            )
            embedded = await unless_disconnected(http, asyncio.wrap_future(future))
        service.metrics.tokens.labels(pinned, "embedded").inc(embedded.tokens)
        return await service.json(caller, lambda: _response(pinned, embedded, body.encoding_format == "base64"))

    return router


def _response(model: str, embedded: Embedded, as_base64: bool) -> dict[str, Any]:
    """OpenAI's list of embeddings: numbers, or base64 of little-endian float32, its client's default."""
    vectors: list[Any]
    if as_base64:
        vectors = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in embedded.vectors]
    else:
        vectors = embedded.vectors.tolist()
    return {
        "object": "list",
        "model": model,
        "data": [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)],
        "usage": {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens},
    }
