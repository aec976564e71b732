"""The grading page over HTTP: blind grading, no lost grade, and refusal of foreign origins."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import httpx
import pytest
from fastapi.testclient import TestClient

from searchlora.eval.judgments.ratings import read_ratings
from searchlora.experiments.judge.pairs import QueryPassage
from searchlora.records import Document
from searchlora.server.grading.app import create_app
from searchlora.server.grading.session import NAMES_PER_ADDRESS, blind_id
from tests.server.browser import chromium, opened
from tests.server.grading.synthetic import ATTACK, served, synthetic_session

BASE = "http://localhost:8765"


@pytest.fixture
def client(tmp_path):
    session = synthetic_session(tmp_path)
    with TestClient(create_app(session), base_url=BASE) as client:
        yield client
    session._log.close()


def rate(client, rater, pair, grade, **more):
    body = {"pair": pair, "grade": grade, "seconds": 1.5, "note": "", **more}
    return client.post(f"/api/raters/{rater}/ratings", json=body)


def first(client, rater="anna"):
    return client.post(f"/api/raters/{rater}/next").json()["pair"]


def test_a_grade_is_on_disk_before_the_response_with_the_next_pair(client, tmp_path):
    pair = first(client)
    answer = rate(client, "anna", pair["id"], 1, seconds=2.345, note=" why ").json()
    (row,) = read_ratings(tmp_path / "ratings.jsonl")
    assert (row.grade, row.rater, row.seconds, row.note) == (1, "anna", 2.3, "why")
    assert answer["pair"]["id"] != pair["id"]
    assert answer["progress"] == {"done": 1, "total": 24}
    rate(client, "anna", answer["pair"]["id"], None)
    assert read_ratings(tmp_path / "ratings.jsonl")[1].grade is None


def test_the_browser_receives_only_query_and_passage(client):
    """No id of topic or document, no system, no rank or score, no grade or name of another rater."""
    pair = first(client, "ben")
    rate(client, "ben", pair["id"], 1, note="ben was here")
    answers = []
    answer = client.post("/api/raters/anna/next").json()
    while answer["pair"]:
        answers.append(answer)
        assert answer.keys() == {"pair", "progress", "earlier"}
        assert answer["pair"].keys() == {"id", "query", "title", "text"}
        assert answer["earlier"] is None
        answer = rate(client, "anna", answer["pair"]["id"], 0).json()
    assert len(answers) == 24
    assert not re.search(r"topic-\d|document-\d|ben", json.dumps(answers) + client.get("/api/task").text)
    back = client.get(f"/api/raters/anna/before/{answers[1]['pair']['id']}").json()
    assert back["earlier"] == {"grade": 0, "note": ""}


def test_pair_ids_do_not_reveal_pool_positions():
    pool = [QueryPassage("1", {"query": "q"}, Document(f"d{n}", "t")) for n in range(5)]
    ids = [blind_id(pair) for pair in pool]
    assert ids != sorted(ids) and not any(pair.document.id in id_ for pair, id_ in zip(pool, ids, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {"grade": 2},
        {"grade": "1"},
        {"grade": True},
        {"grade": 1.5},
        {"pair": "none"},
        {"seconds": -1},
        {"seconds": "1"},
        {"note": "x" * 4001},
        {"note": "a\0b"},
        {"system": "bm25"},
    ],
)
def test_invalid_grades_are_refused_and_not_written(client, tmp_path, change):
    body = {"pair": first(client)["id"], "grade": 1, "seconds": 1.0, "note": ""} | change
    assert client.post("/api/raters/anna/ratings", json=body).status_code == 400
    assert (tmp_path / "ratings.jsonl").read_bytes() == b""


def test_long_bodies_are_not_read(client, tmp_path):
    path = "/api/raters/anna/ratings"
    pair = first(client)["id"]
    assert rate(client, "anna", pair, 1, note="語" * 4000).status_code == 200
    assert client.post(path, content=b"x" * 1_000_000).status_code == 413
    assert client.post(path, content=iter([b"x" * 60_000] * 2)).status_code == 413
    assert len(read_ratings(tmp_path / "ratings.jsonl")) == 1


def test_invalid_rater_names_are_refused_and_the_first_pair_has_no_previous(client):
    for name in ("Anna", "an na", "anna%00", "1a", "a" * 33):
        answer = client.post(f"/api/raters/{name}/next")
        assert (answer.status_code, "rater's name" in answer.text) == (400, True)
    assert client.get("/api/raters/anna/before/none").status_code == 404


def test_an_unsaved_grade_is_not_confirmed(client, tmp_path, monkeypatch):
    from searchlora.files import append_log

    def full(_):
        raise OSError(28, "No space left on device")

    pair = first(client)
    monkeypatch.setattr(append_log.os, "fsync", full)
    answer = rate(client, "anna", pair["id"], 1)
    assert (answer.status_code, "No space left" in answer.text) == (500, True)
    assert str(tmp_path) not in answer.text
    assert first(client) == pair


def test_foreign_origins_and_hosts_are_refused(client, tmp_path):
    """By the guard of both servers, see `test_hardening`."""
    pair = first(client)
    body = {"pair": pair["id"], "grade": 1, "seconds": 1.0, "note": ""}
    for headers in ({"origin": "http://evil.example"}, {"host": "evil.example:8765"}, {"sec-fetch-site": "cross-site"}):
        assert client.post("/api/raters/anna/ratings", json=body, headers=headers).status_code == 403
        assert client.get("/api/task", headers=headers).status_code == 403
    assert (tmp_path / "ratings.jsonl").read_bytes() == b""


def test_links_from_other_sites_open_the_page_and_given_host_names_are_accepted(tmp_path):
    session = synthetic_session(tmp_path)
    with TestClient(create_app(session, names=["Grading.example"]), base_url="http://grading.example") as client:
        assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200


def test_no_external_resources_and_no_documentation_page(client):
    for path in ("/", "/page.js", "/page.css", "/icon.svg", "/api/task", "/none"):
        answer = client.get(path)
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.status_code == (404 if path == "/none" else 200)
        outside = re.sub(r'xmlns="[^"]*"', "", answer.text)
        assert not re.search(r"https?://|//cdn|@import|url\(", outside), path
    for path in ("/docs", "/redoc", "/openapi.json", "/../app.py", "/%2e%2e/app.py"):
        assert client.get(path).status_code == 404


def test_no_telemetry_is_sent_even_if_a_collector_is_configured(client, monkeypatch):
    opentelemetry = pytest.importorskip("opentelemetry")
    asked = []
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    for signal, getter in (
        ("trace", "get_tracer_provider"),
        ("metrics", "get_meter_provider"),
        ("_logs", "get_logger_provider"),
    ):
        monkeypatch.setattr(getattr(opentelemetry, signal), getter, lambda signal=signal: asked.append(signal))
    rate(client, "anna", first(client)["id"], 1)
    assert client.post("/api/raters/anna/ratings", json={}).status_code == 400
    assert asked == []


def test_the_page_inserts_text_as_text():
    script = files("searchlora.server.grading").joinpath("assets", "page.js").read_text()
    for risky in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "DOMParser"):
        assert risky not in script
    page = files("searchlora.server.grading").joinpath("assets", "page.html").read_text()
    assert not re.search(r"\son\w+=|<style|\sstyle=|<script(?! src)", page)
    # Every element that the script uses is on the page.
    assert {*re.findall(r'element\("([\w-]+)"\)', script)} <= {*re.findall(r'id="([\w-]+)"', page)}


@pytest.mark.slow
def test_markup_in_a_passage_is_shown_as_text_in_a_browser(tmp_path):
    """Under the link of one rater."""
    session = synthetic_session(tmp_path / "grades")
    with served(session) as url, chromium() as browser, opened(browser) as page:
        page.goto(f"{url}#anna")
        page.get_by_label("Grade 1: Relevant").wait_for()
        shown = session.next("anna").pair
        assert ATTACK in shown.document.text
        assert page.locator("#text").text_content() == shown.document.text
        for text in (shown.document.title, shown.query, "0: Not relevant. <b>It does not.</b>"):
            assert page.get_by_text(text, exact=True).count() == 1
        assert page.locator("img, #guideline b").count() == 0
        assert page.locator("strong").all_text_contents() == ["answers"]
        assert page.title() == "Grading"


def test_a_client_does_not_choose_its_own_address(tmp_path):
    with served(synthetic_session(tmp_path)) as url, httpx.Client(base_url=url) as client:
        codes = [
            client.post(f"/api/raters/invented{n}/next", headers={"X-Forwarded-For": f"10.0.0.{n}"}).status_code
            for n in range(NAMES_PER_ADDRESS + 5)
        ]
    assert codes == [200] * NAMES_PER_ADDRESS + [400] * 5


def test_no_value_of_any_field_is_an_internal_error(client):
    pair = first(client)["id"]
    body = {"pair": pair, "grade": 1, "seconds": 1.5, "note": "n"}
    hostile = (
        *("", "\0", "\ud800", "a\nb", "x" * 5000, None, True, -1, 2**63, 10**30, 1e308, 0.5, float("nan")),
        *(float("inf"), [], {}, [[]], {"\ud800": 1}),
    )  # fmt: skip
    headers = {"content-type": "application/json"}
    for field in (*body, "unknown", "\ud800"):
        for value in hostile:
            content = json.dumps(body | {field: value})
            answer = client.post("/api/raters/anna/ratings", content=content, headers=headers)
            assert answer.status_code < 500, (field, value, answer.text)
    for content in (b"", b"\xff", b"[" * 4000, b"nan", b'"\\ud800"', b'{"pair": "\xed\xa0\x80"}'):
        assert client.post("/api/raters/anna/ratings", content=content, headers=headers).status_code < 500
    for part in ("%00", "%ff", "%ed%a0%80", "a%0ab", "%2e%2e", "a" * 500):
        for method, path in (("POST", f"/api/raters/{part}/next"), ("GET", f"/api/raters/anna/before/{part}")):
            assert client.request(method, path).status_code < 500
