"""`/v1/score`: how likely each of several answers is."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from searchlora.errors import SearchloraError
from searchlora.inference.engine import Scored
from searchlora.server.api.asking import engine_request
from searchlora.server.api.leaving import unless_gone
from searchlora.server.api.refusals import Refusal, refusal_among
from searchlora.server.api.service import Service
from searchlora.server.api.wire import ScoreBody, ScoreRequest, ScoreRequests


def routes(service: Service) -> APIRouter:
    """One request, or several at once."""
    router = APIRouter()

    @router.post("/v1/score")
    async def score(asked: ScoreBody, http: Request) -> dict[str, Any]:
        several = asked.requests if isinstance(asked, ScoreRequests) else [asked]
        begun = await run_in_threadpool(_begin, service, several, http.state.caller)
        wanted = asyncio.gather(*(asyncio.wrap_future(future) for _, future in begun))
        try:
            found = await unless_gone(http, wanted)
        finally:
            _take_back(begun)
        results = [_result(service, model, scored) for (model, _), scored in zip(begun, found, strict=True)]
        return {"results": results} if isinstance(asked, ScoreRequests) else results[0]

    return router


_Begun = Sequence[tuple[str, Future[Scored]]]


def _begin(service: Service, several: Sequence[ScoreRequest], caller: str) -> _Begun:
    begun: list[tuple[str, Future[Scored]]] = []
    try:
        for asked in several:
            request, _ = engine_request(service, asked, ends=asked.ends)
            future = service.engine.submit_score(
                request, asked.choices, within=asked.within, caller=caller, seconds=service.settings.seconds
            )
            begun.append((request.adapter or service.base, future))
    except BaseException as error:
        _take_back(begun)
        if len(several) > 1 and isinstance(error, (Refusal, SearchloraError)):
            raise refusal_among(error, len(begun)) from error
        raise
    return begun


def _take_back(begun: _Begun) -> None:
    for _, future in begun:
        future.cancel()


def _result(service: Service, model: str, scored: Scored) -> dict[str, Any]:
    service.metrics.tokens.labels(model, "prompt").inc(scored.prompt_tokens)
    service.metrics.tokens.labels(model, "scored").inc(scored.scored_tokens)
    top = max(scored.log_probabilities)
    weights = [math.exp(each - top) for each in scored.log_probabilities]
    return {
        "object": "score",
        "model": model,
        "log_probabilities": list(scored.log_probabilities),
        "probabilities": [weight / math.fsum(weights) for weight in weights],
        "usage": {"prompt_tokens": scored.prompt_tokens, "scored_tokens": scored.scored_tokens},
    }
