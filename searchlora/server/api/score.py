"""`/v1/score`: how likely each of several answers is."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from searchlora.errors import SearchloraError
from searchlora.inference.engine import Request as EngineRequest
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
        models, futures = await run_in_threadpool(_begin, service, several, http.state.caller)
        wanted = asyncio.gather(*map(asyncio.wrap_future, futures))
        try:
            found = await unless_gone(http, wanted)
        finally:
            for future in futures:
                future.cancel()
        results = [_result(service, model, scored) for model, scored in zip(models, found, strict=True)]
        return {"results": results} if isinstance(asked, ScoreRequests) else results[0]

    return router


def _begin(
    service: Service, several: Sequence[ScoreRequest], caller: str
) -> tuple[list[str], Sequence[Future[Scored]]]:
    """What each is scored by, and all of them handed over, or none."""
    if len(several) > service.settings.waiting:
        most = service.settings.waiting
        raise Refusal(400, "invalid_value", f"No more than {most} requests are taken at once.", param="requests")
    models: list[str] = []

    def each() -> Iterator[tuple[EngineRequest, Sequence[str], float | None]]:
        for asked in several:
            request, _ = engine_request(service, asked, choice_suffix=asked.ends)
            yield request, asked.choices, asked.within
            models.append(request.adapter or service.base)

    try:
        return models, service.engine.submit_scores(each(), caller=caller, seconds=service.settings.seconds)
    except (Refusal, SearchloraError) as error:
        if len(models) < len(several) > 1:
            raise refusal_among(error, len(models)) from error
        raise


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
