"""The playground: its files and headers, labels, text that stays text, and its script against a running server."""

from __future__ import annotations

import re
from importlib.resources import files

import httpx
import pytest

from searchlora.server.http import PAGE_HEADERS
from searchlora.server.playground.page import page_files
from tests.server.api.serving import made_service, served
from tests.server.playground.tree import nodes, parsed
from tests.server.searching import ATTACK, DOCUMENTS

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


def test_each_file_holds_one_idea():
    for name, text in (SCRIPTS | STYLES).items():
        assert len(text.splitlines()) <= 250 and text.lstrip().startswith(("//", "/*", ":root")), name


def test_every_name_that_a_script_imports_is_exported():
    for name, script in SCRIPTS.items():
        for names, file in re.findall(r'import \{([^}]+)\} from "\./([\w.]+)"', script):
            for each in names.split(","):
                exported = rf"export (async )?(function\*?|const|class|let) {each.strip()}\b"
                assert re.search(exported, SCRIPTS[file]), (name, each)
                assert len(re.findall(rf"\b{each.strip()}\b", script)) > 1, (name, each)


def test_text_is_inserted_as_text():
    for risky in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "DOMParser"):
        assert risky not in SCRIPT
    assert not re.search(r"\son\w+=|<style|\sstyle=|<script(?! type=.module. src=)", PAGE)
    assert {*re.findall(r'element\("([\w-]+)"\)', SCRIPT)} <= {*re.findall(r'id="([\w-]+)"', PAGE)}
    assert {*re.findall(r'part\("\.([\w-]+)"\)', SCRIPT)} <= {
        name for names in re.findall(r'class="([^"]+)"', PAGE) for name in names.split()
    }


def test_every_control_has_a_label_and_every_landmark_a_name():
    tree = parsed(PAGE)
    all_nodes = list(nodes(tree))
    labelled = {node["attributes"].get("for") for node, _ in all_nodes if node["tag"] == "label"}
    controls = [(node, above) for node, above in all_nodes if node["tag"] in ("input", "select", "textarea", "button")]
    assert len(controls) > 8
    for node, above in controls:
        inside = any(each["tag"] == "label" for each in above)
        text = any(isinstance(child, str) and child.strip() for child in node["children"])
        assert node["attributes"].get("id") in labelled or inside or text, node
    for node, _ in all_nodes:
        of_side = node["attributes"].get("class") == "side"  # the script names sides
        if node["tag"] in ("main", "nav", "section") and not of_side:
            assert {"aria-label", "aria-labelledby"} & node["attributes"].keys(), node
    assert {"alert", "status", "search"} <= {node["attributes"].get("role") for node, _ in all_nodes}
    assert PAGE.startswith('<!doctype html>\n<html lang="en">')
    assert "prefers-color-scheme: dark" in STYLE
    ids = re.findall(r'\bid="([^"]+)"', PAGE)
    assert len(ids) == len(set(ids))


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


@pytest.mark.slow
def test_a_search_shows_hits_stages_and_markup_as_text(steps):
    found = steps("""
        await page.search("couch right");
        const [side] = page.sides();
        return {
          titles: page.texts(side, ".hit h3"), texts: page.texts(side, ".hit .text"),
          stages: page.texts(side, ".stages summary"), summary: page.texts(side, ".summary"),
          images: page.root.querySelectorAll("img").length, requested: page.requested,
          unlabelled: side.all().filter(({ tag }) => ["select", "input"].includes(tag))
            .filter(({ parent }) => parent.tag !== "label").length,
        };
    """)
    assert ATTACK in found["titles"]
    assert next(row["text"] for row in DOCUMENTS if row["id"] == "d4") in found["texts"]
    assert (found["images"], found["unlabelled"]) == (0, 0)
    assert re.match(r"1\. bm25\(k=3\) [\d.]+ ms$", found["stages"][0])
    assert re.match(r"\d of \d hits in [\d.]+ ms · nDCG@10", found["summary"][0])
    assert found["requested"] == ["/v1/pipelines", "/v1/topics", "/v1/search"]


@pytest.mark.slow
def test_two_systems_are_compared_with_rank_moves_slots_and_prompts(steps):
    found = steps("""
        const { search, sides, texts, element, until, choose } = page;
        await search("red couch");
        element("compare").click();
        await until(() => element("status").textContent.includes("System B"), "two systems");
        const moved = (side) => side.querySelectorAll(".meta").map((meta) => meta.children[1].textContent);
        const moves = () => sides().map(moved);
        const compared = moves();
        await choose(sides()[1].querySelector(".pipeline"), "rewritten");
        await until(() => element("status").textContent.includes("System B"), "the rewriter");
        const prompts = texts(sides()[1], "pre");
        const rewriter = sides()[1].querySelectorAll(".slots select")[0];
        await choose(rewriter, "off");
        await until(() => element("status").textContent.includes("System B"), "no rewriter");
        return { compared, prompts, stages: texts(sides()[1], ".stages summary"), same: moves(),
          pressed: element("compare").getAttribute("aria-pressed") };
    """)
    assert len(found["compared"]) == 2
    assert any("red couch" in prompt for prompt in found["prompts"])
    assert [stage.split()[1] for stage in found["stages"]] == ["bm25(k=3)"]
    assert found["same"] == [["same rank"] * 3] * 2
    assert found["pressed"] == "true"


@pytest.mark.slow
def test_a_missing_document_is_explained_and_pinned_results_are_compared(steps):
    found = steps("""
        const { search, sides, texts, element, until, choose } = page;
        await search("red couch");
        const [side] = sides();
        side.querySelector(".missing").value = "d5";
        side.querySelector(".why").dispatch("submit");
        await until(() => side.querySelector(".verdict"), "explanation");
        side.querySelector(".pin").click();
        await search("blue lamp");
        element("pins").querySelectorAll("button")[0].click();
        return { verdict: texts(side, ".verdict"), pins: texts(element("pins"), "bdi"),
          difference: texts(element("difference"), "td"), heading: texts(element("difference"), "h3") };
    """)
    assert found["verdict"] == ["d5 is missing since stage 1, bm25(k=3): it contains no word of the query: red, couch."]
    assert found["pins"] == ["1: red couch (lexical)"]
    assert found["difference"][:4] == ["d5", "–", "1", "new"]
    assert "gone" in found["difference"]


@pytest.mark.slow
def test_a_grade_is_saved_with_the_raters_name_and_the_measure_moves(steps):
    found = steps("""
        const { search, sides, texts, element, until, named } = page;
        await search("red tent");
        named("Grade 3 for d3").click();
        await until(() => !element("problem").hidden, "a name is asked for");
        const asked = element("problem").textContent;
        element("rater").value = "carla";
        named("Grade 0 for d2").click();
        await until(() => element("status").textContent.startsWith("Saved grade 0"), "saved");
        named("Grade 3 for d3").click();
        await until(() => element("status").textContent.startsWith("Saved grade 3"), "saved");
        return { asked, status: element("status").textContent,
          pressed: named("Grade 3 for d3").getAttribute("aria-pressed"), summary: texts(sides()[0], ".summary") };
    """)
    assert found["asked"].startswith("Write your name first")
    assert found["status"] == "Saved grade 3. nDCG@10 was – and is 1.000."
    assert found["pressed"] == "true"
    assert "nDCG@10 1.000" in found["summary"][0]


@pytest.mark.slow
def test_a_server_that_is_gone_is_told(steps):
    found = steps("""
        page.state.url = "http://127.0.0.1:9";
        await page.search("red couch");
        return { problem: page.element("problem").textContent, summary: page.texts(page.sides()[0], ".summary") };
    """)
    assert found == {
        "problem": "The server does not respond. Check that it is still running.",
        "summary": ["Search failed."],
    }
