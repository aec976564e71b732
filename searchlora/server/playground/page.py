"""The files of the playground: one page with its script and style, without any other address."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import APIRouter, Response

from searchlora.server.http import PAGE_HEADERS

#: Path -> media type of the files.
PAGE_FILES = {
    "/": "text/html",
    "/playground.css": "text/css",
    "/playground.js": "text/javascript",
    "/playground.svg": "image/svg+xml",
}


def routes() -> APIRouter:
    """`GET` of each file."""
    router = APIRouter()
    for path in PAGE_FILES:
        router.add_api_route(path, _file(path), methods=["GET"])
    return router


def _file(path: str) -> Callable[[], Awaitable[Response]]:
    name = "playground.html" if path == "/" else path.removeprefix("/")
    content = files("searchlora.server.playground").joinpath("assets", name).read_bytes()

    async def file() -> Response:
        return Response(content, media_type=PAGE_FILES[path], headers=PAGE_HEADERS)

    return file
