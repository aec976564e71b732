"""The playground in Chromium: by keyboard, by axe-core, on a phone, with odd texts, and with a dying server.

With SEARCHLORA_SCREENSHOTS=FOLDER the views are kept as pictures, to be looked at.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from searchlora.server.api import topic_jobs
from tests.server.playground.browser import chromium
from tests.server.searching import ATTACK, DOCUMENTS

pytestmark = pytest.mark.slow

SEARCHED = "document.getElementById('status').textContent.startsWith('System A')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        browser.size(1440)
        yield browser


@pytest.fixture
def page(browser, url):
    """The page, freshly loaded; a test that leaves errors in the console fails."""
    browser.size(1440)
    browser.colours("light")
    browser.errors.clear()
    browser.open(f"{url}/")
    browser.until("document.querySelector('.pipeline option')")
    yield browser
    browser.js("sessionStorage.clear()")
    assert browser.errors == []


def texts(page, selector):
    return page.js(f"[...document.querySelectorAll({selector!r})].map((each) => each.innerText)")


def choose(page, selector, value):
    """Choose an option, as a person does."""
    page.js(
        f"(() => {{ const it = document.querySelector({selector!r}); it.value = {value!r};"
        " document.getElementById('status').textContent = '';"
        " it.dispatchEvent(new Event('change', { bubbles: true })); })()"
    )


def search(page, query, pipeline=None):
    """Search by keyboard: / moves to the field, Enter searches."""
    if pipeline is not None:
        choose(page, ".side .pipeline", pipeline)
    page.js("document.getElementById('status').textContent = ''; document.activeElement.blur()")
    page.press("/")
    page.js("document.getElementById('query').select()")
    page.type(query)
    page.press("Enter")
    page.until(SEARCHED)


def to_view(page, name):
    page.tab_to(f"it.textContent === {name!r} && it.tagName === 'A'")
    page.press("Enter")
    page.until(f"document.querySelector('[aria-current=page]').textContent === {name!r}")


# Searching


def test_two_systems_slots_a_missing_document_and_a_grade(page):
    search(page, "red couch", "rewritten")
    assert len(texts(page, ".hit")) == 3
    page.tab_to("it.id === 'compare'")
    page.press("Enter")
    page.until("document.querySelectorAll('#sides .side').length === 2")
    page.until("document.getElementById('status').textContent.includes('System B')")
    assert "same rank" in " ".join(texts(page, ".hit .meta"))
    choose(page, "#sides .side .slots select", "off")
    page.until("document.getElementById('status').textContent.includes('System B')")
    assert [each.split()[1] for each in texts(page, "#sides .side:first-child .stages summary")] == ["bm25(k=3)"]
    page.tab_to("it.className === 'missing'")
    page.type("d5")
    page.press("Enter")
    page.until("document.querySelector('.verdict')")
    assert "contains no word of the query" in texts(page, ".verdict")[0]
    page.js("localStorage.clear(); document.getElementById('rater').value = 'carla'")
    page.js("document.body.focus()")
    page.tab_to("it.getAttribute('aria-label') === 'Grade 3 for d2'", 160)
    page.press("Space")
    page.until("document.getElementById('status').textContent.startsWith('Saved grade 3')")
    assert page.js("document.activeElement.getAttribute('aria-label')") == "Grade 3 for d2"
    assert page.js("document.activeElement.getAttribute('aria-pressed')") == "true"


def test_a_query_that_comes_before_the_pipelines_is_searched(browser, url):
    late = (
        "const at = window.fetch; window.fetch = async (...all) => {"
        " if (String(all[0]).includes('pipelines')) await new Promise((done) => setTimeout(done, 1500));"
        " return at(...all); };"
    )
    script = browser.call("Page.addScriptToEvaluateOnNewDocument", source=late)["identifier"]
    try:
        browser.open(f"{url}/")
        browser.js("document.getElementById('query').focus()")
        browser.type("red couch")
        browser.press("Enter")
        assert browser.js("!document.querySelector('.pipeline option')")
        browser.until(SEARCHED)
    finally:
        browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)
    assert texts(browser, ".hit")


def test_pinned_results_outlive_a_reload_and_not_their_removal(page, url):
    def reloaded():
        page.open(f"{url}/")
        page.until("document.querySelector('.pipeline option')")
        return texts(page, "#pins bdi")

    for query in ("red couch", "red tent"):
        search(page, query, "lexical")
        page.js("document.querySelector('.pin').click()")
    assert reloaded() == ["1: red couch (lexical)", "2: red tent (lexical)"]
    search(page, "red couch", "lexical")
    page.js("document.querySelector('#pins button').click()")
    assert "0 of" in texts(page, "#difference h3")[0]
    page.js("document.querySelector('#pins li button:last-child').click()")
    assert reloaded() == ["1: red tent (lexical)"]


def test_markup_is_text_and_long_mirrored_and_pictured_texts_fit(page):
    page.size(390)
    search(page, f"couch {ATTACK} \u05d0\u05d3\u05d5\u05de\u05d4 \U0001f6cb\ufe0f {'verylong' * 100}", "lexical")
    shown = page.js("[...document.querySelectorAll('.hit h3, .hit .text')].map((each) => each.textContent)")
    assert {row["text"] for row in DOCUMENTS if row["id"] in ("d4", "d6")} <= set(shown)
    assert ATTACK in shown
    assert page.js("document.querySelectorAll('img').length") == 0
    assert page.fits()
    titles = page.js(
        "[...document.querySelectorAll('.hit h3')].map((each) => [each.textContent, getComputedStyle(each).direction])"
    )
    hebrew = next(row["title"] for row in DOCUMENTS if row["id"] == "d6")
    assert [hebrew, "rtl"] in titles


@pytest.mark.parametrize("width", [1440, 390])
def test_a_problem_is_seen_wherever_the_page_is_scrolled_to(page, width):
    page.size(width, 500)
    search(page, "red couch", "lexical")
    page.js("localStorage.clear(); document.getElementById('rater').value = ''")
    page.js("window.scrollTo(0, document.documentElement.scrollHeight)")
    page.js("[...document.querySelectorAll('.grades button')].at(-1).click()")
    page.until("!document.getElementById('problem').hidden")
    page.js("window.scrollTo(0, document.documentElement.scrollHeight)")
    place = page.js("(({ top, bottom }) => [top, bottom])(document.getElementById('problem').getBoundingClientRect())")
    assert page.js("window.scrollY") > 0 and 0 <= place[0] < place[1] <= 500
    assert "lowercase letters" in texts(page, "#problem")[0]


# The features that measure, by keyboard


def test_topics_are_compared_and_opened_side_by_side(page):
    to_view(page, "Topics")
    choose(page, "#compared-baseline .pipeline", "judged")
    page.tab_to("it.textContent === 'Compare on all topics'")
    page.press("Enter")
    page.until("document.activeElement.id === 'gains'")
    (headline, *_) = texts(page, "#gains h2")
    assert "nDCG@10" in headline and "over 5 topics" in headline and " to " in headline
    gains = [float(each.replace("−", "-")) for each in texts(page, ".topics .gain")]
    assert gains in (sorted(gains), sorted(gains, reverse=True)) and len(gains) == 5
    assert ATTACK in " ".join(texts(page, ".topics .topic-query"))
    page.tab_to("it.parentElement.parentElement?.className === 'topics'")
    query = page.js("document.activeElement.querySelector('.topic-query').textContent")
    page.press("Enter")
    page.until("document.querySelectorAll('#sides .side').length === 2")
    page.until("document.getElementById('status').textContent.includes('System B')")
    assert page.js("document.getElementById('query').value") == query
    assert page.js("[...document.querySelectorAll('#sides .pipeline')].map(({value}) => value)") == [
        "lexical",
        "judged",
    ]


def test_a_comparison_shows_its_progress_and_is_cancelled(page, monkeypatch):
    held, original = threading.Event(), topic_jobs.measure

    def slow(*given, steps, **more):
        steps("topics")(2, 5)
        assert held.wait(60)
        return original(*given, steps=steps, **more)

    monkeypatch.setattr(topic_jobs, "measure", slow)
    to_view(page, "Topics")
    page.tab_to("it.textContent === 'Compare on all topics'")
    page.press("Enter")
    page.until("document.querySelector('#compare-job .job').innerText.includes('2 of 10 topics')")
    page.tab_to("it.textContent === 'Cancel'")
    page.press("Enter")
    page.until("document.getElementById('status').textContent === 'Cancelled.'")
    assert page.js("document.activeElement.textContent") == "Compare on all topics"
    assert page.js("document.querySelector('#compare-job .job').hidden")
    assert texts(page, ".topics") == []
    held.set()


def test_weights_are_moved_measured_and_chosen(page):
    search(page, "red couch", "triple")
    label = "(document.querySelector('.stages summary')?.textContent || '')"
    assert "weights" not in page.js(label)
    page.tab_to("it.type === 'range'")
    page.press("ArrowRight", "ArrowRight")
    page.until(f"{label}.includes('weights=')")  # the search follows the slider
    moved = texts(page, ".shares")[0]
    page.tab_to("it.textContent.startsWith('Measure all fusion weights on 5 topics')")
    page.press("Enter")
    page.until("document.querySelectorAll('.cell').length === 66")
    assert [page.js(f"document.querySelectorAll('.heat-row')[{row}].children.length") for row in (0, 10)] == [1, 11]
    page.tab_to("it.classList.contains('cell')")
    first = page.js("document.activeElement.getAttribute('aria-label')")
    assert "nDCG@10" in first and " to " in first and "the best" in first
    for key in ("ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft"):
        page.press(key)
    page.js("document.querySelector('.heat-row .cell').focus()")
    page.press("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight")
    chosen = page.js("document.activeElement.getAttribute('aria-label')")
    assert chosen.startswith("bm25 (1) 0, bm25 (2) 0.2, bm25 (3) 0.8: ")
    assert texts(page, ".fusion-weights")[0] == chosen.removesuffix(", the best")
    page.press("Enter")
    page.until(f"{label}.includes('weights=0.2:0.8')")
    assert texts(page, ".shares")[0] == "bm25 (1) 0, bm25 (2) 0.2, bm25 (3) 0.8" != moved
    page.js("document.querySelector('.fusions-shown details').open = true")
    assert page.js("document.querySelectorAll('.fusions-shown tbody tr').length") == 66


def test_disagreements_are_opened(page):
    to_view(page, "Judges")
    page.tab_to("it.textContent === 'Find disagreements'")
    page.press("Enter")
    page.until("document.activeElement.id === 'disagreements'")
    assert "differ on" in texts(page, "#disagreements h2")[0]
    page.tab_to("it.tagName === 'SUMMARY' && it.closest('.pairs')")
    page.press("Enter")
    summary = page.js("document.activeElement.innerText")
    assert "judge " in summary and ("judgments " in summary or "carla " in summary)
    rows = page.js("[...document.querySelectorAll('.pair[open] tbody td:first-child')].map((each) => each.textContent)")
    assert any("(judge)" in row for row in rows) and any("(people)" in row for row in rows)


def test_an_answer_shows_its_evidence_and_what_has_none(page):
    search(page, "red tent", "answered")
    assert "1 of 2 sentences have no support" in texts(page, ".unsupported-count")[0]
    assert texts(page, ".unsupported") == ["It costs 9 euros."]
    page.tab_to("it.className === 'cite'")
    assert "supports this sentence" in page.js("document.activeElement.getAttribute('aria-label')")
    page.press("Enter")
    assert page.js("document.activeElement.tagName") == "SUMMARY"
    assert texts(page, "mark") == ["It weighs 2 kg."]  # behind an emoji, which is two units of UTF-16
    assert page.js("document.querySelector('.cite.weak').getAttribute('aria-label')").endswith(
        "does not support this sentence"
    )


def test_an_adapter_leads_to_the_queries_that_it_helps_and_hurts(page):
    to_view(page, "Adapters")
    page.until("document.querySelector('.adapter')")
    shown = " ".join(texts(page, ".adapter"))
    assert "MRR@10 0.410 (0.350 to 0.470), n = 40" in shown and "loses to query unchanged" in shown
    page.tab_to("it.tagName === 'SUMMARY' && it.textContent.startsWith('Aliases and decisions (2)')")
    page.press("Enter")
    assert "version 2 was refused for production" in " ".join(texts(page, ".moves"))
    page.tab_to(
        "it.getAttribute('aria-label') === 'Compare with off: queries that rewriter@2 helps and hurts in rewritten'"
    )
    page.press("Enter")
    page.until("document.activeElement.id === 'gains'")
    assert "Baseline: rewritten, rewriter: off" in " ".join(texts(page, "#gains p"))


# Accessibility and sizes


def prepared(page, view):
    """A view with everything open that it shows."""
    if view == "search":
        search(page, "red couch", "rewritten")
        page.js("document.getElementById('compare').click()")
        page.until("document.getElementById('status').textContent.includes('System B')")
        page.js("document.querySelector('.missing').value = 'd5'; document.querySelector('.why button').click()")
        page.until("document.querySelector('.verdict')")
        page.js("document.querySelector('.pin').click()")
    elif view == "weights":
        search(page, "red couch", "triple")
        page.js("document.querySelector('.fusions button').click()")
        page.until("document.querySelector('.cell')")
    elif view == "answer":
        search(page, "red tent", "answered")
        page.js("document.querySelector('.cite').click()")
    elif view == "topics":
        page.js("document.getElementById('to-topics').click()")
        choose(page, "#compared-baseline .pipeline", "judged")
        page.js("document.querySelector('#compare-form button[type=submit]').click()")
        page.until("document.querySelector('.topics')")
    elif view == "judges":
        page.js("document.getElementById('to-judges').click()")
        page.js("document.querySelector('#judge-form button[type=submit]').click()")
        page.until("document.querySelector('.pair')")
    else:
        page.js("document.getElementById('to-adapters').click()")
        page.until("document.querySelector('.adapter')")
    page.js("[...document.querySelectorAll('main details')].slice(0, 12).forEach((each) => { each.open = true; })")


@pytest.mark.parametrize("view", ["search", "weights", "answer", "topics", "judges", "adapters"])
def test_views_have_no_serious_fault_and_fit_a_phone(page, view):
    prepared(page, view)
    folder = os.environ.get("SEARCHLORA_SCREENSHOTS")
    for scheme in ("light", "dark"):
        page.colours(scheme)
        for width in (1440, 390):
            page.size(width)
            assert page.fits(), (view, scheme, width)
            if folder:
                page.screenshot(Path(folder) / f"{view}-{scheme}-{width}.png")
        assert page.faults() == [], (view, scheme)
