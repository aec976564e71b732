"""`/v1/score`: log-probabilities of given answers (choices)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import cache

from fastapi import Response
from scipy.special import softmax

from searchlora.errors import SearchloraError
from searchlora.inference.engine import ChoiceScores
from searchlora.inference.engine import Request as EngineRequest
from searchlora.server.api.disconnect import unless_disconnected
from searchlora.server.api.errors import ApiError, api_error_at
from searchlora.server.api.response_schemas import Scores, ScoresOfBatch
from searchlora.server.api.routing import ApiRequest, api_router
from searchlora.server.api.schemas import ScoreBody, ScoreRequest, ScoreRequests
from searchlora.server.api.service import Service

router = api_router()


@router.post("/v1/score", summary="Score choices", response_model=Scores | ScoresOfBatch)
async def score(http: ApiRequest, body: ScoreBody) -> Response:
    """Score one request or a batch."""
    service = http.service
    requests = body.requests if isinstance(body, ScoreRequests) else [body]
    with service.admitted(http.client_id, len(requests)):
        models, futures = await http.in_thread(
            lambda: _submit(service, requests, http.client_id), on_abandoned=lambda submitted: _cancel(submitted[1])
        )
        try:
            scores = await unless_disconnected(http, asyncio.gather(*map(asyncio.wrap_future, futures)))
        finally:
            _cancel(futures)

    def content() -> Scores | ScoresOfBatch:
        results = [_result(service, model, scored) for model, scored in zip(models, scores, strict=True)]
        return {"results": results} if isinstance(body, ScoreRequests) else results[0]

    return await http.json_response(content)


def _cancel(futures: Sequence[Future[ChoiceScores]]) -> None:
    for future in futures:
        future.cancel()


def _submit(
    service: Service, requests: Sequence[ScoreRequest], client_id: str
) -> tuple[list[str], Sequence[Future[ChoiceScores]]]:
    """Submit all requests or none. Returns the model of each, and its future."""
    if len(requests) > service.config.waiting:
        limit = service.config.waiting
        raise ApiError(400, "invalid_value", f"At most {limit} requests are taken at once.", param="requests")
    service.check_store()  # an error of one request does not tell that the store has disappeared
    pin = cache(service.pin)  # one version answers a batch, also where an alias has weights
    models: list[str] = []

    def engine_requests() -> Iterator[tuple[EngineRequest, Sequence[str], float | None]]:
        for body in requests:
            messages = tuple(message.plain for message in body.messages)
            request = EngineRequest(
                messages,
                pin(body.model),
                answer_prefix=body.answer_prefix,
                choice_suffix=body.choice_suffix,
            )
            yield service.rendered(request), body.choices, body.prune_margin
            models.append(request.adapter or service.base)

    try:
        futures = service.engine.submit_scores(engine_requests(), client=client_id, seconds=service.config.timeout)
    except (ApiError, SearchloraError) as error:
        if len(models) < len(requests) > 1:
            raise api_error_at(error, len(models)) from error
        raise
    return models, futures


def _result(service: Service, model: str, scored: ChoiceScores) -> Scores:
    service.metrics.scored(model, scored)
    return {
        "object": "score",
        "model": model,
        "log_probabilities": list(scored.log_probabilities),
        "probabilities": softmax(scored.log_probabilities).tolist(),
        "usage": {"prompt_tokens": scored.prompt_tokens, "scored_tokens": scored.scored_tokens},
    }
