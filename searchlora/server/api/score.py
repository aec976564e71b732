"""`/v1/score`: log-probabilities of given answers (choices)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter

from searchlora.errors import SearchloraError
from searchlora.inference.engine import ChoiceScores
from searchlora.inference.engine import Request as EngineRequest
from searchlora.server.api.disconnect import unless_disconnected
from searchlora.server.api.errors import ApiError, api_error_at
from searchlora.server.api.schemas import ScoreBody, ScoreRequest, ScoreRequests
from searchlora.server.api.service import Service

_BODY: TypeAdapter[ScoreRequest | ScoreRequests] = TypeAdapter(ScoreBody)


def routes(service: Service) -> APIRouter:
    """`POST /v1/score`, for one request or a batch."""
    router = APIRouter()

    @router.post("/v1/score")
    async def score(http: Request) -> Response:
        body = await service.body(http, _BODY)
        requests = body.requests if isinstance(body, ScoreRequests) else [body]
        with service.admitted(http.state.caller, len(requests)):
            models, futures = await service.in_thread(
                http.state.caller,
                lambda: _submit(service, requests, http.state.caller),
                on_abandoned=lambda submitted: _cancel(submitted[1]),
            )
            try:
                scores = await unless_disconnected(http, asyncio.gather(*map(asyncio.wrap_future, futures)))
            finally:
                _cancel(futures)

        def response() -> dict[str, Any]:
            results = [_result(service, model, scored) for model, scored in zip(models, scores, strict=True)]
            return {"results": results} if isinstance(body, ScoreRequests) else results[0]

        return await service.json(http.state.caller, response)

    return router


def _cancel(futures: Sequence[Future[ChoiceScores]]) -> None:
    for future in futures:
        future.cancel()


def _submit(
    service: Service, requests: Sequence[ScoreRequest], caller: str
) -> tuple[list[str], Sequence[Future[ChoiceScores]]]:
    """Submit all requests or none. Returns the model of each, and its future."""
    if len(requests) > service.settings.max_waiting:
        limit = service.settings.max_waiting
        raise ApiError(400, "invalid_value", f"At most {limit} requests are taken at once.", param="requests")
    models: list[str] = []

    def engine_requests() -> Iterator[tuple[EngineRequest, Sequence[str], float | None]]:
        for body in requests:
            messages = tuple(message.plain for message in body.messages)
            request = EngineRequest(
                messages,
                service.pin(body.model),
                answer_prefix=body.answer_prefix,
                choice_suffix=body.choice_suffix,
            )
            yield service.rendered(request), body.choices, body.prune_margin
            models.append(request.adapter or service.base)

    try:
        futures = service.engine.submit_scores(engine_requests(), client=caller, seconds=service.settings.timeout)
    except (ApiError, SearchloraError) as error:
        if len(models) < len(requests) > 1:
            raise api_error_at(error, len(models)) from error
        raise
    return models, futures


def _result(service: Service, model: str, scored: ChoiceScores) -> dict[str, Any]:
    service.metrics.tokens.labels(model, "prompt").inc(scored.prompt_tokens)
    service.metrics.tokens.labels(model, "scored").inc(scored.scored_tokens)
    return {
        "object": "score",
        "model": model,
        "log_probabilities": list(scored.log_probabilities),
        "probabilities": probabilities(scored.log_probabilities),
        "usage": {"prompt_tokens": scored.prompt_tokens, "scored_tokens": scored.scored_tokens},
    }


def probabilities(log_probabilities: Sequence[float]) -> list[float]:
    """The probability of each choice among the choices.

    Examples:
        >>> probabilities([0.0, 0.0])
        [0.5, 0.5]
    """
    top = max(log_probabilities)
    weights = [math.exp(log_probability - top) for log_probability in log_probabilities]
    return [weight / math.fsum(weights) for weight in weights]
