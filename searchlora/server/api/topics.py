"""`/v1/topics` and `/v1/jobs`: what is measured on all judged topics, as background jobs."""

from __future__ import annotations

from collections.abc import Callable

from searchlora.server.api.jobs import Work
from searchlora.server.api.judge_jobs import disagreeing
from searchlora.server.api.response_schemas import JobEntry, TopicsEntry
from searchlora.server.api.routing import ApiRequest, api_router
from searchlora.server.api.search_schemas import ComparisonRequest, DisagreementsRequest, WeightsRequest
from searchlora.server.api.topic_jobs import comparing, weighing
from searchlora.server.grading.search_grades import MEASURE

router = api_router()


@router.get("/v1/topics", summary="Describe the judged topics")
def topics(http: ApiRequest) -> TopicsEntry:
    """How many topics have judgments, and what is measured on them."""
    grades = http.service.grades
    judged = len(grades.judged()[0]) if grades is not None else 0
    collects = grades is not None and grades.collects
    return {"object": "topics", "judged": judged, "measure": MEASURE, "collects_grades": collects}


@router.post("/v1/topics/compare", summary="Compare two systems on all topics")
async def compare(http: ApiRequest, body: ComparisonRequest) -> JobEntry:
    """Start a job that compares two systems in pairs."""
    return await _start(http, "comparison", lambda: comparing(http.service, body))


@router.post("/v1/topics/weights", summary="Measure all weights of a fusion")
async def weights(http: ApiRequest, body: WeightsRequest) -> JobEntry:
    """Start a job that measures the weights of a fusion."""
    return await _start(http, "weights", lambda: weighing(http.service, body))


@router.post("/v1/topics/disagreements", summary="Find where a judge and people disagree")
async def disagreements(http: ApiRequest, body: DisagreementsRequest) -> JobEntry:
    """Start a job that compares the grades of a judge with those of people."""
    return await _start(http, "disagreements", lambda: disagreeing(http.service, body))


@router.get("/v1/jobs/{job}", summary="Describe a background job")
def job_progress(http: ApiRequest, job: str) -> JobEntry:
    """Progress and result of a job of the client."""
    return http.service.jobs.get(http.client_id, job).json()


@router.delete("/v1/jobs/{job}", summary="Cancel a background job")
def cancel_job(http: ApiRequest, job: str) -> JobEntry:
    """Stop a job of the client."""
    return http.service.jobs.cancel(http.client_id, job).json()


async def _start(http: ApiRequest, kind: str, prepared: Callable[[], Work]) -> JobEntry:
    """A job, once its request was checked in a thread: the check may load adapters."""
    function = await http.service.in_task_thread(http.client_id, prepared)
    return http.service.jobs.start(http.client_id, kind, function).json()
