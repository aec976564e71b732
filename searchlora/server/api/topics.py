"""`/v1/topics` and `/v1/jobs`: what is measured on all judged topics, as background jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from searchlora.eval.trec import Qrels
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.server.api.jobs import Work
from searchlora.server.api.judge_jobs import disagreeing, scale_of
from searchlora.server.api.keys import requires
from searchlora.server.api.response_schemas import ExampleQuery, JobEntry, TopicsEntry
from searchlora.server.api.routing import ApiRequest, api_router
from searchlora.server.api.search_schemas import ComparisonRequest, DisagreementsRequest, WeightsRequest
from searchlora.server.api.service import Service
from searchlora.server.api.topic_jobs import comparing, shown_fields, weighing
from searchlora.server.grading.search_grades import HIGHEST_GRADE, MEASURE

router = api_router()

#: Grades of hits where nothing says otherwise.
_GRADES = (0, 1, 2, 3)

#: Queries that the page offers; documents whose titles are considered, and words of a title.
_EXAMPLES, _LOOKED_AT, _WORDS = 6, 50, 8


@router.get("/v1/topics", summary="Describe the judged topics")
@requires("search")
def topics(http: ApiRequest) -> TopicsEntry:
    """How many topics have judgments, and what is measured on them; what the page offers."""
    service = http.service
    known, qrels = service.grades.judged() if service.grades is not None else ({}, {})
    return {
        "object": "topics",
        "judged": len(known),
        "measure": MEASURE,
        "collects_grades": service.grades is not None and service.grades.collects,
        "scale": _scale(service, qrels),
        "examples": _examples(service, known),
    }


def _scale(service: Service, qrels: Qrels) -> list[int]:
    """The grades of the first judge that is served, else those of the judgments, else 0 to 3."""
    for _, served in service.pipelines:
        for place in served.judges.values():
            stage = served.pipeline.stages[place]
            if isinstance(stage, AdapterStage):
                return sorted(scale_of(stage))
    highest = max((grade for grades in qrels.values() for grade in grades.values()), default=0)
    return list(range(highest + 1)) if 0 < highest <= HIGHEST_GRADE else list(_GRADES)


def _examples(service: Service, topics: Mapping[str, Mapping[str, Any]]) -> list[ExampleQuery]:
    """The first judged queries; without judgments, the titles of the first documents."""
    served = next((served for _, served in service.pipelines), None)
    if served is None:
        return []
    read = set(served.fields)
    found = {str(fields["query"]): shown_fields(topic, fields, read) for topic, fields in topics.items()}
    if not found:
        documents = served.pipeline.documents
        titles = (documents[name].title for name in islice(documents, _LOOKED_AT))
        found = {" ".join(title.split()[:_WORDS]): {} for title in titles if title.strip()}
    return [{"query": query, "fields": fields} for query, fields in islice(found.items(), _EXAMPLES)]


@router.post("/v1/topics/compare", summary="Compare two systems on all topics")
@requires("grade")
async def compare(http: ApiRequest, body: ComparisonRequest) -> JobEntry:
    """Start a job that compares two systems in pairs."""
    return await _start(http, "comparison", lambda: comparing(http.service, body))


@router.post("/v1/topics/weights", summary="Measure all weights of a fusion")
@requires("grade")
async def weights(http: ApiRequest, body: WeightsRequest) -> JobEntry:
    """Start a job that measures the weights of a fusion."""
    return await _start(http, "weights", lambda: weighing(http.service, body))


@router.post("/v1/topics/disagreements", summary="Find where a judge and people disagree")
@requires("grade")
async def disagreements(http: ApiRequest, body: DisagreementsRequest) -> JobEntry:
    """Start a job that compares the grades of a judge with those of people."""
    return await _start(http, "disagreements", lambda: disagreeing(http.service, body))


@router.get("/v1/jobs/{job}", summary="Describe a background job")
@requires("grade")
def job_progress(http: ApiRequest, job: str) -> JobEntry:
    """Progress and result of a job of the client."""
    return http.service.jobs.get(http.client_id, job).json()


@router.delete("/v1/jobs/{job}", summary="Cancel a background job")
@requires("grade")
def cancel_job(http: ApiRequest, job: str) -> JobEntry:
    """Stop a job of the client."""
    return http.service.jobs.cancel(http.client_id, job).json()


async def _start(http: ApiRequest, kind: str, prepared: Callable[[], Work]) -> JobEntry:
    """A job, once its request was checked in a thread: the check may load adapters."""
    function = await http.service.in_task_thread(http.client_id, prepared)
    return http.service.jobs.start(http.client_id, kind, function).json()
