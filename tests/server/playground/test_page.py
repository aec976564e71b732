"""The playground: its files and headers, labels, and text that stays text."""

from __future__ import annotations

import re
from graphlib import TopologicalSorter
from importlib.resources import files

import httpx
import pytest

from searchlora.server.http import PAGE_HEADERS
from searchlora.server.playground.page import page_files
from tests.server.api.serving import made_service, served

ASSETS = files("searchlora.server.playground").joinpath("assets")
PAGE = ASSETS.joinpath("playground.html").read_text("utf-8")
SCRIPTS = {name: ASSETS.joinpath(name).read_text("utf-8") for name in page_files() if name.endswith(".js")}
STYLES = {name: ASSETS.joinpath(name).read_text("utf-8") for name in page_files() if name.endswith(".css")}
SCRIPT = "\n".join(SCRIPTS.values())
STYLE = "\n".join(STYLES.values())


def test_the_files_are_served_with_the_headers_of_a_page(url):
    assert httpx.get(f"{url}/playground/none.js").status_code == 404
    kinds = {"/": "text/html"} | {f"/playground/{name}": kind for name, kind in page_files().items()}
    for path, kind in kinds.items():
        response = httpx.get(url + path)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith(kind)
        assert {name: response.headers.get(name) for name in PAGE_HEADERS} == PAGE_HEADERS
    assert httpx.get(f"{url}/").text == PAGE


def test_the_page_needs_no_key_and_its_requests_do(store_of_search, tiny_base):
    service = made_service(tiny_base, store_of_search, api_keys=("secret",))
    with served(service) as url:
        assert httpx.get(f"{url}/").status_code == httpx.get(f"{url}/playground/main.js").status_code == 200
        assert httpx.get(f"{url}/v1/pipelines").status_code == 401
        key = {"authorization": "Bearer secret"}
        assert httpx.get(f"{url}/v1/pipelines", headers=key).json() == {"object": "list", "data": []}


def test_nothing_is_loaded_from_elsewhere():
    for text in (PAGE, SCRIPT, STYLE):
        assert not re.search(r"https?:|//[a-z0-9]|@import|url\(", text.replace("// ", "")), text
    loaded = {each.removeprefix("/playground/") for each in re.findall(r'(?:src|href)="([^"#]+)"', PAGE)}
    imported = {name: set(re.findall(r'from "\./([\w.]+)"', script)) for name, script in SCRIPTS.items()}
    reached = set()
    while found := {each for name in loaded | reached for each in imported.get(name, ())} - reached:
        reached |= found
    assert loaded | reached == set(page_files())
    TopologicalSorter(imported).prepare()  # raises an error for a circle


def test_each_file_holds_one_idea():
    for name, text in (SCRIPTS | STYLES).items():
        assert len(text.splitlines()) <= 250 and text.lstrip().startswith(("//", "/*", ":root")), name


def test_text_is_inserted_as_text():
    for risky in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "DOMParser"):
        assert risky not in SCRIPT
    assert not re.search(r"\son\w+=|<style|\sstyle=|<script(?! type=.module. src=)", PAGE)
    assert {*re.findall(r'element\("([\w-]+)"\)', SCRIPT)} <= {*re.findall(r'id="([\w-]+)"', PAGE)}
    assert {*re.findall(r'part\("\.([\w-]+)"\)', SCRIPT)} <= {
        name for names in re.findall(r'class="([^"]+)"', PAGE) for name in names.split()
    }


def luminance(colour):
    """Relative luminance of `#rrggbb` (WCAG 2)."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", ["playground/assets/playground.css", "grading/assets/page.css"])
def test_texts_and_the_edges_of_controls_stand_out_in_light_and_dark(page):
    """WCAG 2.1: 4.5 for text, 3 for what shows where a control is. axe-core does not look at edges."""
    style = files("searchlora.server").joinpath(page).read_text("utf-8")
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r":root \{[^}]*\}", style)[:2]
    )
    for colours in (light, dark):
        for ground in ("paper", "card"):
            for text in {"ink", "muted", "accent", "bad", "good"} & colours.keys():
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground, colours)
            assert contrast(colours["edge"], colours[ground]) >= 3, (ground, colours)
        assert contrast(colours["on-accent"], colours["accent"]) >= 4.5
    for control in ("button", "input, textarea"):
        (rule,) = re.findall(rf"^{control}(?:, select)? \{{[^}}]*border: 1px[^}}]*\}}", style, re.MULTILINE)
        assert "border: 1px solid var(--edge)" in rule
