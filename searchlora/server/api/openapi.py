"""The OpenAPI document: what FastAPI derives from the routes, and what only the guard and the server know."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter
from starlette.routing import BaseRoute

from searchlora import __version__
from searchlora.server.api.response_schemas import ErrorBody

#: Statuses of every path: invalid HTTP, a body that is too slow, an unexpected error, a time-out.
_ALWAYS = (400, 408, 500, 501, 503, 504)

#: Statuses of every path except the health probes and the page: authentication, body size, rate limit.
_GUARDED = (401, 403, 413, 429)

#: Response of an operation that can stream: `responses={200: EVENTS}`.
EVENTS: dict[str, Any] = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}


def openapi_document(routes: Sequence[BaseRoute], open_paths: Sequence[str]) -> dict[str, Any]:
    """The document of routes, in OpenAPI 3.1: every path with every status and content type that it answers with.

    `x-role` of an operation is `write` where an API key that only reads does not suffice.
    """
    about = "Base model, adapters, encoders and pipelines."
    document = get_openapi(title="searchlora", version=__version__, description=about, routes=routes)
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            statuses = {*_ALWAYS, *(() if path in open_paths else _GUARDED)}
            statuses |= {404, 409} if method == "post" else {404} if "{" in path else set()
            documented = {"200": operation["responses"]["200"]}  # FastAPI's own 422 is a 400 here
            for status in sorted(statuses):
                documented[str(status)] = {"description": HTTPStatus(status).phrase, "content": error}
            operation["responses"] = documented
    components = document["components"]
    schemas = components["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    own = TypeAdapter(ErrorBody).json_schema(ref_template="#/components/schemas/{model}")
    schemas |= {**own.pop("$defs"), "ErrorBody": own}
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document | {"security": [{}, {"key": []}]}
