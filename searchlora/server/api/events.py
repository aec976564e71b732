"""What users do with hits: clicks, carts, purchases and grades, by the id of their search."""

from __future__ import annotations

import asyncio

from searchlora.events.log import Feedback
from searchlora.server.api.errors import ApiError
from searchlora.server.api.response_schemas import EventsResult, FeedbackOutcome
from searchlora.server.api.routing import ApiRequest, api_router
from searchlora.server.api.search_schemas import EventsRequest

router = api_router()


@router.post("/v1/events", summary="Record what users do with hits")
async def events(http: ApiRequest, body: EventsRequest) -> EventsResult:
    """Record clicks, carts, purchases and grades. The answer comes when they are on disk."""
    recorder = http.service.events
    if recorder is None:
        message = "This server records no events. Start it with --events FOLDER."
        raise ApiError(404, "events_not_recorded", message)
    if any(each.action == "grade" for each in body.events):
        http.check_writes()
    rows = [Feedback(each.search, each.action, each.document, each.grade, each.rater) for each in body.events]
    written, refusals = recorder.feedback(rows)
    done = await asyncio.wrap_future(written)
    new = iter(done)
    data: list[FeedbackOutcome] = []
    for row, refusal in zip(rows, refusals, strict=True):
        if refusal is not None:
            data.append({"outcome": refusal.reason, "message": str(refusal)})
        else:
            data.append({"outcome": "new" if next(new) else "repeated"})
        http.service.metrics.feedback.labels(row.action, data[-1]["outcome"]).inc()
    recorded = sum(each["outcome"] == "new" for each in data)
    return {"object": "events", "recorded": recorded, "data": data}
