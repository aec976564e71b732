"""The files of the playground: one page with its scripts and styles, without any other address."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response
from starlette.responses import HTMLResponse

from searchlora.server.api.errors import ApiError
from searchlora.server.http import PAGE_HEADERS

#: The path of the page, and the one below which its files are.
PAGE, FILES = "/", "/playground/"

#: Suffix of a file -> its media type.
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

_ASSETS = files("searchlora.server.playground").joinpath("assets")


def page_files() -> dict[str, str]:
    """Name -> media type of the files that the page loads.

    Examples:
        >>> page_files()["main.js"]
        'text/javascript'
    """
    names = sorted(file.name for file in _ASSETS.iterdir())
    suffixes = {name: name[name.rfind(".") :] for name in names}
    return {name: MEDIA_TYPES[suffix] for name, suffix in suffixes.items() if suffix in MEDIA_TYPES}


def is_page(path: str) -> bool:
    """Whether a path is that of the page or of one of its files; they need no API key.

    Examples:
        >>> is_page("/"), is_page("/playground/main.js"), is_page("/v1/search")
        (True, True, False)
    """
    return path == PAGE or path.startswith(FILES)


router = APIRouter()
_PAGE = _ASSETS.joinpath("playground.html").read_bytes()
_CONTENTS = {name: (_ASSETS.joinpath(name).read_bytes(), kind) for name, kind in page_files().items()}


@router.get(PAGE, summary="The playground", response_class=HTMLResponse)
async def the_page() -> Response:
    """The page."""
    return Response(_PAGE, media_type="text/html", headers=PAGE_HEADERS)


@router.get(
    f"{FILES}{{file}}",
    summary="A file of the playground",
    response_class=Response,
    responses={200: {"content": {kind: {"schema": {"type": "string"}} for kind in MEDIA_TYPES.values()}}},
)
async def one_file(file: str) -> Response:
    """A script, a style sheet or an image of the page."""
    if file not in _CONTENTS:
        raise ApiError(404, "not_found", "The playground has no such file.")
    content, kind = _CONTENTS[file]
    return Response(content, media_type=kind, headers=PAGE_HEADERS)
