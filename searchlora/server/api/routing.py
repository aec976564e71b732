"""Routes of both servers: FastAPI states the contract, and blocking work runs outside the event loop.

A path is its function: the parameter `body` has the model of the request body, and the return annotation, or
`response_model`, that of the answer. FastAPI derives the OpenAPI document from both. `ApiRoute` calls the function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from starlette.responses import JSONResponse

from searchlora.server.api.bodies import parse_body
from searchlora.server.api.errors import ApiError
from searchlora.server.api.keys import WRITES
from searchlora.server.api.work_queue import FairThreads, in_thread

if TYPE_CHECKING:
    from searchlora.server.api.service import Service

T = TypeVar("T")


class ApiRequest(Request):
    """A request that has passed the guard, with its client and the service that answers it."""

    @property
    def service(self) -> Service:
        """The service of the application."""
        service: Service = self.app.state.service
        return service

    @property
    def client_id(self) -> str:
        """Who asks: the name of an API key, or the address of the client."""
        client_id: str = self.state.client_id
        return client_id

    def check_writes(self) -> None:
        """Raise 403 if the request has a key that only reads. Without keys, everybody writes."""
        if getattr(self.state, "role", None) == "read":
            raise ApiError(403, "role_missing", "This needs a key with the role 'write'; yours has the role 'read'.")

    async def in_thread(self, function: Callable[[], T], *, on_abandoned: Callable[[T], object] | None = None) -> T:
        """Run a blocking function in a worker thread, when its client's turn comes, see `work_queue.in_thread`."""
        threads: FairThreads = self.app.state.threads
        return await in_thread(threads, self.client_id, function, on_abandoned=on_abandoned)

    async def json_response(self, content: Callable[[], Any]) -> Response:
        """A JSON response whose content is computed and encoded in a worker thread: it may be large."""
        return await self.in_thread(lambda: JSONResponse(content()))


class ApiRoute(APIRoute):
    """Calls its function with `http`, an `ApiRequest`, with the parameters of the path, and with the parsed `body`.

    A route with `openapi_extra=WRITES` needs a key that writes.

    A body is parsed and validated in a worker thread: an invalid one may take a while. A function without `async` runs
    in a worker thread, too, and its result is encoded there.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The function that Starlette calls."""
        function = self.endpoint
        writes = self.openapi_extra == WRITES
        body_type = get_type_hints(function, include_extras=True).get("body")
        adapter: TypeAdapter[Any] | None = None if body_type is None else TypeAdapter(body_type)

        async def handle(request: Request) -> Response:
            http = ApiRequest(request.scope, request.receive)
            if writes:
                http.check_writes()
            arguments = {"http": http, **request.path_params}
            if adapter is not None:
                raw, content_type = await http.body(), http.headers.get("content-type", "")
                arguments["body"] = await http.in_thread(lambda: parse_body(raw, content_type, adapter))
            if not inspect.iscoroutinefunction(function):
                return await http.in_thread(lambda: JSONResponse(function(**arguments)))
            result = await function(**arguments)
            return result if isinstance(result, Response) else JSONResponse(result)

        return handle


def api_router() -> APIRouter:
    """A router whose functions are called by `ApiRoute`."""
    return APIRouter(route_class=ApiRoute)
