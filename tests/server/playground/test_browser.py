"""The playground in Chromium: by keyboard, by axe-core, on a phone, with odd texts, and with a dying server.

With SEARCHLORA_SCREENSHOTS=FOLDER the views are kept as pictures, to be looked at.
"""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest

from searchlora.server.api import topic_jobs
from tests.server.browser import faults, fits, opened, tab_to
from tests.server.searching import ATTACK, DOCUMENTS

pytestmark = pytest.mark.slow

expect = pytest.importorskip("playwright.sync_api").expect


@pytest.fixture
def page(chromium, url):
    """The page, freshly loaded; a test that leaves errors in the console fails."""
    with opened(chromium) as page:
        load(page, url)
        yield page


def load(page, url):
    page.goto(f"{url}/")
    page.locator(".side .pipeline option").first.wait_for(state="attached")


def choose(page, selector, value):
    """Choose an option; the status is cleared, so that a test can wait for the next one."""
    page.locator("#status").evaluate("it => { it.textContent = ''; }")
    page.locator(selector).first.select_option(value)


def search(page, query, pipeline=None):
    """Search by keyboard: / moves to the field, Enter searches."""
    if pipeline is not None:
        choose(page, ".side .pipeline", pipeline)
    page.evaluate("document.getElementById('status').textContent = ''; document.activeElement.blur()")
    page.keyboard.press("/")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.insert_text(query)
    page.keyboard.press("Enter")
    searched(page, "System A")


def searched(page, text):
    expect(page.locator("#status")).to_contain_text(text)


def to_view(page, name):
    tab_to(page.get_by_role("link", name=name, exact=True))
    page.keyboard.press("Enter")
    expect(page.locator("[aria-current=page]")).to_have_text(name)


def press(target):
    """Reach a control by Tab, and press Enter on it."""
    tab_to(target)
    target.page.keyboard.press("Enter")


def button(page, name, exact=False):
    return page.get_by_role("button", name=name, exact=exact)


# Searching


def test_two_systems_slots_a_missing_document_and_a_grade(page):
    search(page, "red couch", "rewritten")
    expect(page.locator(".hit")).to_have_count(3)
    press(page.locator("#compare"))
    expect(page.locator("#sides .side")).to_have_count(2)
    searched(page, "System B")
    assert "same rank" in " ".join(page.locator(".hit .meta").all_inner_texts())
    choose(page, "#sides .side .slots select", "off")
    searched(page, "System B")
    stages = page.locator("#sides .side:first-child .stages summary").all_inner_texts()
    assert [each.split()[1] for each in stages] == ["bm25(k=3)"]
    tab_to(page.locator(".missing"))
    page.keyboard.insert_text("d5")
    page.keyboard.press("Enter")
    expect(page.locator(".verdict")).to_contain_text("contains no word of the query")
    page.locator("#rater").fill("carla")
    tab_to(page.get_by_label("Grade 3 for d2"))
    page.keyboard.press("Space")
    searched(page, "Saved grade 3")
    focused = page.locator(":focus")
    expect(focused).to_have_attribute("aria-label", "Grade 3 for d2")
    expect(focused).to_have_attribute("aria-pressed", "true")


def test_a_query_that_comes_before_the_pipelines_is_searched(chromium, url):
    with opened(chromium) as page:
        waiting = []
        page.route("**/v1/pipelines", lambda route: waiting.append(route))
        page.goto(f"{url}/")
        page.locator("#query").fill("red couch")
        page.keyboard.press("Enter")
        expect(page.locator(".pipeline option")).to_have_count(0)
        for route in waiting:
            route.continue_()
        searched(page, "System A")
        assert page.locator(".hit").count()


def test_pinned_results_outlive_a_reload_and_not_their_removal(page, url):
    pins = page.locator("#pins bdi")
    for query in ("red couch", "red tent"):
        search(page, query, "lexical")
        page.locator(".pin").click()
    load(page, url)
    expect(pins).to_have_text(["1: red couch (lexical)", "2: red tent (lexical)"])
    search(page, "red couch", "lexical")
    page.locator("#pins button").first.click()
    expect(page.locator("#difference h3")).to_contain_text("0 of")
    page.locator("#pins li button:last-child").first.click()
    load(page, url)
    expect(pins).to_have_text(["1: red tent (lexical)"])


def test_markup_is_text_and_long_mirrored_and_pictured_texts_fit(page):
    page.set_viewport_size({"width": 390, "height": 900})
    search(page, f"couch {ATTACK} \u05d0\u05d3\u05d5\u05de\u05d4 \U0001f6cb\ufe0f {'verylong' * 100}", "lexical")
    shown = page.locator(".hit h3, .hit .text").all_text_contents()
    assert {row["text"] for row in DOCUMENTS if row["id"] in ("d4", "d6")} <= set(shown)
    assert ATTACK in shown
    assert page.locator("img").count() == 0
    assert fits(page)
    hebrew = next(row["title"] for row in DOCUMENTS if row["id"] == "d6")
    expect(page.locator(".hit h3", has_text=hebrew)).to_have_css("direction", "rtl")


@pytest.mark.parametrize("width", [1440, 390])
def test_a_problem_is_seen_wherever_the_page_is_scrolled_to(page, width):
    page.set_viewport_size({"width": width, "height": 500})
    search(page, "red couch", "lexical")
    page.locator("#more summary").click()
    page.locator("#fields").fill("{")
    button(page, "Search", exact=True).click()
    expect(page.locator("#problem")).to_contain_text("are not JSON")
    page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    assert page.evaluate("window.scrollY") > 0
    expect(page.locator("#problem")).to_be_in_viewport(ratio=1)


# The features that measure, by keyboard


def test_topics_are_compared_and_opened_side_by_side(page):
    to_view(page, "Topics")
    choose(page, "#compared-baseline .pipeline", "judged")
    press(button(page, "Compare on all topics"))
    expect(page.locator("#gains")).to_be_focused()
    expect(page.locator("#gains h2")).to_have_text(re.compile(r"nDCG@10.* to .*over 5 topics"))
    gains = [float(each.replace("−", "-")) for each in page.locator(".topics .gain").all_inner_texts()]
    assert gains in (sorted(gains), sorted(gains, reverse=True)) and len(gains) == 5
    assert ATTACK in " ".join(page.locator(".topics .topic-query").all_inner_texts())
    tab_to(page.locator(".topics > * > *"))
    query = page.locator(":focus .topic-query").text_content()
    page.keyboard.press("Enter")
    searched(page, "System B")
    expect(page.locator("#query")).to_have_value(query)
    assert [each.input_value() for each in page.locator("#sides .pipeline").all()] == ["lexical", "judged"]


def test_a_comparison_shows_its_progress_and_is_cancelled(page, monkeypatch):
    held, original = threading.Event(), topic_jobs.measure

    def slow(*given, steps, **more):
        steps("topics")(2, 5)
        assert held.wait(60)
        return original(*given, steps=steps, **more)

    monkeypatch.setattr(topic_jobs, "measure", slow)
    to_view(page, "Topics")
    press(button(page, "Compare on all topics"))
    expect(page.locator("#compare-job .job")).to_contain_text("2 of 10 topics")
    press(button(page, "Cancel"))
    expect(page.locator("#status")).to_have_text("Cancelled.")
    expect(button(page, "Compare on all topics")).to_be_focused()
    expect(page.locator("#compare-job .job")).to_be_hidden()
    expect(page.locator(".topics")).to_have_count(0)
    held.set()


def test_weights_are_moved_measured_and_chosen(page):
    search(page, "red couch", "triple")
    stage, shares = page.locator(".stages summary").first, page.locator(".side .shares")
    expect(stage).not_to_contain_text("weights")
    tab_to(page.get_by_role("slider"))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(stage).to_contain_text("weights=")  # the search follows the slider
    moved = shares.inner_text()
    press(button(page, "Measure all fusion weights on 5 topics"))
    expect(page.locator(".cell")).to_have_count(66)
    assert [page.locator(".heat-row").nth(row).locator("> *").count() for row in (0, 10)] == [1, 11]
    tab_to(page.locator(".cell"))
    focused = page.locator(":focus")
    expect(focused).to_have_attribute("aria-label", re.compile(r"nDCG@10.* to .*the best"))
    for key in ("ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft"):
        page.keyboard.press(key)
    page.locator(".heat-row .cell").first.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    chosen = focused.get_attribute("aria-label")
    assert chosen.startswith("bm25 (1) 0, bm25 (2) 0.2, bm25 (3) 0.8: ")
    expect(page.locator(".fusion-weights")).to_have_text(chosen.removesuffix(", the best"))
    page.keyboard.press("Enter")
    expect(stage).to_contain_text("weights=0.2:0.8")
    assert shares.inner_text() == "bm25 (1) 0, bm25 (2) 0.2, bm25 (3) 0.8" != moved
    page.locator(".fusions-shown details summary").click()
    expect(page.locator(".fusions-shown tbody tr")).to_have_count(66)


def test_disagreements_are_opened(page):
    to_view(page, "Judges")
    press(button(page, "Find disagreements"))
    expect(page.locator("#disagreements")).to_be_focused()
    expect(page.locator("#disagreements h2").first).to_contain_text("differ on")
    press(page.locator(".pairs summary"))
    summary = page.locator(":focus").inner_text()
    assert "judge " in summary and ("judgments " in summary or "carla " in summary)
    rows = page.locator(".pair[open] tbody td:first-child").all_text_contents()
    assert any("(judge)" in row for row in rows) and any("(people)" in row for row in rows)


def test_an_answer_shows_its_evidence_and_what_has_none(page):
    search(page, "red tent", "answered")
    expect(page.locator(".unsupported-count")).to_contain_text("1 of 2 sentences have no support")
    expect(page.locator(".unsupported")).to_have_text("It costs 9 euros.")
    tab_to(page.locator("[class=cite]"))
    expect(page.locator(":focus")).to_have_attribute("aria-label", re.compile("supports this sentence"))
    page.keyboard.press("Enter")
    expect(page.locator("summary:focus")).to_have_count(1)
    expect(page.locator("mark")).to_have_text("It weighs 2 kg.")  # behind an emoji, which is two units of UTF-16
    expect(page.locator(".cite.weak")).to_have_attribute("aria-label", re.compile("does not support this sentence$"))


def test_an_adapter_leads_to_the_queries_that_it_helps_and_hurts(page):
    to_view(page, "Adapters")
    page.locator(".adapter").first.wait_for()
    shown = " ".join(page.locator(".adapter").all_inner_texts())
    assert "MRR@10 0.410 (0.350 to 0.470), n = 40" in shown and "loses to query unchanged" in shown
    press(page.locator("summary", has_text="Aliases and decisions (2)"))
    assert "version 2 was refused for production" in " ".join(page.locator(".moves").all_inner_texts())
    press(button(page, "Compare with off: queries that rewriter@2 helps and hurts in rewritten", exact=True))
    expect(page.locator("#gains")).to_be_focused()
    assert "Baseline: rewritten, rewriter: off" in " ".join(page.locator("#gains p").all_inner_texts())


# Accessibility and sizes


def show(page, view):
    """Show a view with everything that it can show, opened."""
    if view == "search":
        search(page, "red couch", "rewritten")
        page.locator("#compare").click()
        searched(page, "System B")
        page.locator(".missing").first.fill("d5")
        page.locator(".why button").first.click()
        page.locator(".verdict").wait_for()
        page.locator(".pin").first.click()
    elif view == "weights":
        search(page, "red couch", "triple")
        page.locator(".fusions button").first.click()
        page.locator(".cell").first.wait_for()
    elif view == "answer":
        search(page, "red tent", "answered")
        page.locator(".cite").first.click()
    elif view == "topics":
        page.locator("#to-topics").click()
        choose(page, "#compared-baseline .pipeline", "judged")
        button(page, "Compare on all topics").click()
        page.locator(".topics").wait_for()
    elif view == "judges":
        page.locator("#to-judges").click()
        button(page, "Find disagreements").click()
        page.locator(".pair").first.wait_for()
    else:
        page.locator("#to-adapters").click()
        page.locator(".adapter").first.wait_for()
    page.locator("main details").evaluate_all("all => all.slice(0, 12).forEach((each) => { each.open = true; })")


@pytest.mark.parametrize("view", ["search", "weights", "answer", "topics", "judges", "adapters"])
def test_views_have_no_serious_fault_and_fit_a_phone(page, view):
    show(page, view)
    folder = os.environ.get("SEARCHLORA_SCREENSHOTS")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (1440, 390):
            page.set_viewport_size({"width": width, "height": 900})
            assert fits(page), (view, scheme, width)
            if folder:
                page.screenshot(path=Path(folder) / f"{view}-{scheme}-{width}.png", full_page=True)
        assert faults(page) == [], (view, scheme)
