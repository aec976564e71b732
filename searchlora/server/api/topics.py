"""`/v1/topics` and `/v1/jobs`: what is measured on all judged topics, as background jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter

from searchlora.server.api.jobs import BackgroundJob
from searchlora.server.api.search_schemas import ComparisonRequest, DisagreementsRequest, WeightsRequest
from searchlora.server.api.service import Service
from searchlora.server.api.topic_jobs import Comparing, Disagreeing, TopicCache, Weighing
from searchlora.server.grading.search_grades import MEASURE

_COMPARISON = TypeAdapter(ComparisonRequest)
_WEIGHTS = TypeAdapter(WeightsRequest)
_DISAGREEMENTS = TypeAdapter(DisagreementsRequest)

#: What a job computes.
Work: TypeAlias = Callable[[BackgroundJob], dict[str, Any]]


def routes(service: Service) -> APIRouter:
    """`GET /v1/topics`; `POST /v1/topics/compare`, `/weights` and `/disagreements`; `GET` and `DELETE /v1/jobs/ID`."""
    router = APIRouter()
    cache = TopicCache()

    async def start(http: Request, kind: str, prepared: Callable[[], Work]) -> Response:
        """A job, once its request was checked in a thread: the check may load adapters."""
        caller = http.state.caller
        function = await service.in_task_thread(caller, prepared)
        return await service.json(caller, lambda: service.jobs.start(caller, kind, function).json())

    @router.get("/v1/topics")
    async def topics(http: Request) -> Response:
        return await service.json(http.state.caller, lambda: _described(service))

    @router.post("/v1/topics/compare")
    async def compare(http: Request) -> Response:
        body = await service.body(http, _COMPARISON)
        return await start(http, "comparison", lambda: Comparing.of(service, cache, body))

    @router.post("/v1/topics/weights")
    async def weights(http: Request) -> Response:
        body = await service.body(http, _WEIGHTS)
        return await start(http, "weights", lambda: Weighing.of(service, body))

    @router.post("/v1/topics/disagreements")
    async def disagreements(http: Request) -> Response:
        body = await service.body(http, _DISAGREEMENTS)
        return await start(http, "disagreements", lambda: Disagreeing.of(service, body))

    @router.api_route("/v1/jobs/{job}", methods=["GET", "DELETE"])
    async def job(http: Request, job: str) -> Response:
        caller = http.state.caller
        wanted = service.jobs.cancel if http.method == "DELETE" else service.jobs.get
        return await service.json(caller, lambda: wanted(caller, job).json())

    return router


def _described(service: Service) -> dict[str, Any]:
    grades = service.grades
    judged = len(grades.judged()[0]) if grades is not None else 0
    return {
        "object": "topics",
        "judged": judged,
        "measure": MEASURE,
        "collects_grades": grades is not None and grades.collects,
    }
