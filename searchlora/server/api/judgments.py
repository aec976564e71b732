"""`/v1/judgments`: grades of hits, saved with their rater."""

from __future__ import annotations

from searchlora.server.api.errors import ApiError
from searchlora.server.api.response_schemas import JudgmentResult
from searchlora.server.api.routing import ApiRequest, api_router
from searchlora.server.api.search_schemas import JudgmentRequest

router = api_router()


@router.post("/v1/judgments", summary="Grade a hit")
def judgments(http: ApiRequest, body: JudgmentRequest) -> JudgmentResult:
    """Save a grade, and measure rankings with it."""
    grades = http.service.grades
    if grades is None or not grades.collects:
        message = "This server collects no grades. Start it with --grades FOLDER."
        raise ApiError(404, "grades_not_collected", message)
    saved = grades.rate(body.query, body.document, body.grade, body.rater, body.seconds, body.rankings, body.fields)
    return {"object": "judgment", **saved}  # type: ignore[typeddict-item]
