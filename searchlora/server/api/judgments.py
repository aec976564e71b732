"""`/v1/judgments`: grades of hits, saved with their rater."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter

from searchlora.server.api.errors import ApiError
from searchlora.server.api.search_schemas import JudgmentRequest
from searchlora.server.api.service import Service

_BODY = TypeAdapter(JudgmentRequest)


def routes(service: Service) -> APIRouter:
    """`POST /v1/judgments`."""
    router = APIRouter()

    @router.post("/v1/judgments")
    async def judgments(http: Request) -> Response:
        body = await service.body(http, _BODY)
        grades = service.grades
        if grades is None or not grades.collects:
            message = "This server collects no grades. Start it with --grades FOLDER."
            raise ApiError(404, "grades_not_collected", message)

        def content() -> dict[str, Any]:
            saved = grades.rate(
                body.query, body.document, body.grade, body.rater, body.seconds, body.rankings, body.fields
            )
            return {"object": "judgment", **saved}

        return await service.json(http.state.caller, content)

    return router
