"""`/v1/topics`: what the page offers for searching and grading."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from searchlora.eval.trec import Qrels
from searchlora.server.api.response_schemas import ExampleQuery, TopicsEntry
from searchlora.server.api.routing import ApiRequest, api_router
from searchlora.server.api.service import Service
from searchlora.server.grading.search_grades import HIGHEST_GRADE
from searchlora.systems.pipeline import with_history

router = api_router()

#: Grades of hits where nothing says otherwise.
_GRADES = (0, 1, 2, 3)

#: Queries that the page offers; documents whose titles are considered, and words of a title.
_EXAMPLES, _LOOKED_AT, _WORDS = 6, 50, 8


@router.get("/v1/topics", summary="Describe grades and example queries")
def topics(http: ApiRequest) -> TopicsEntry:
    """Whether hits can be graded, on which scale, and queries to begin with."""
    service = http.service
    known, qrels = service.grades.judged() if service.grades is not None else ({}, {})
    return {
        "object": "topics",
        "collects_grades": service.grades is not None and service.grades.collects,
        "scale": _scale(service, qrels),
        "examples": _examples(service, known),
    }


def _scale(service: Service, qrels: Qrels) -> list[int]:
    """The grades of the first judge that is served, else those of the judgments, else 0 to 3."""
    for _, served in service.pipelines:
        if (scale := served.judge_scale) is not None:
            return scale
    highest = max((grade for grades in qrels.values() for grade in grades.values()), default=0)
    return list(range(highest + 1)) if 0 < highest <= HIGHEST_GRADE else list(_GRADES)


def _examples(service: Service, topics: Mapping[str, Mapping[str, Any]]) -> list[ExampleQuery]:
    """The first judged queries; without judgments, the titles of the first documents."""
    served = next((served for _, served in service.pipelines), None)
    if served is None:
        return []
    read = set(served.fields)
    examples = {str(fields["query"]): _fields_of(topic, fields, read) for topic, fields in topics.items()}
    if not examples:
        documents = served.pipeline.documents
        titles = (documents[name].title for name in islice(documents, _LOOKED_AT))
        examples = {" ".join(title.split()[:_WORDS]): {} for title in titles if title.strip()}
    return [{"query": query, "fields": fields} for query, fields in islice(examples.items(), _EXAMPLES)]


def _fields_of(topic: str, fields: Mapping[str, Any], read: set[str]) -> dict[str, Any]:
    """The fields of a topic that stages read, in the form that a search takes."""
    search = with_history({"id": topic, **fields}, f"topic {topic}")
    return {name: value for name, value in search.items() if name in read}
