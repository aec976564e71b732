"""`/v1/embeddings`: vectors of texts in the format of OpenAI."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from fastapi import Response

from searchlora.server.api.disconnect import unless_disconnected
from searchlora.server.api.encoders import Embedded
from searchlora.server.api.response_schemas import Embeddings
from searchlora.server.api.routing import ApiRequest, api_router
from searchlora.server.api.schemas import EmbeddingRequest
from searchlora.server.api.token_arrays import text_of

router = api_router()


@router.post("/v1/embeddings", summary="Embed texts", response_model=Embeddings)
async def embeddings(http: ApiRequest, body: EmbeddingRequest) -> Response:
    """Embed texts or token arrays with an encoder, or with an adapter for one."""
    service, client_id = http.service, http.client_id
    encoders = service.encoders
    with service.admitted(client_id):
        pinned = await http.in_thread(lambda: encoders.pin(body.model))
        texts = await http.in_thread(lambda: list(map(text_of, body.input)))
        future = encoders.submit(
            pinned,
            texts,
            body.dimensions,
            documents=body.input_type == "document",
            truncate=body.truncate,
            timeout=service.config.timeout,
            client_id=client_id,
        )
        embedded = await unless_disconnected(http, asyncio.wrap_future(future))
    service.metrics.count_tokens(pinned, "embedded", embedded.tokens)
    return await http.json_response(lambda: _response(pinned, embedded, body.encoding_format == "base64"))


def _response(model: str, embedded: Embedded, as_base64: bool) -> Embeddings:
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
