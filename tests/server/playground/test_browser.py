"""The playground in Chromium: by keyboard, by axe-core, on a phone, with odd texts, and with a dying server.

With SEARCHLORA_SCREENSHOTS=FOLDER the views are kept as pictures, to be looked at.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

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


# What a search shows, by keyboard


def test_the_search_follows_the_weights(page):
    search(page, "red couch", "triple")
    stage, shares = page.locator(".stages summary").first, page.locator(".side .shares")
    expect(stage).not_to_contain_text("weights")
    before = shares.inner_text()
    tab_to(page.get_by_role("slider"))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(stage).to_contain_text("weights=")
    assert shares.inner_text() != before


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


def test_the_adapters_show_measures_and_decisions(page):
    to_view(page, "Adapters")
    page.locator(".adapter").first.wait_for()
    shown = " ".join(page.locator(".adapter").all_inner_texts())
    assert "MRR@10 0.410 (0.350 to 0.470), n = 40" in shown and "loses to query unchanged" in shown
    assert "Used in rewritten, careful." in shown
    press(page.locator("summary", has_text="Aliases and decisions (2)"))
    assert "version 2 was refused for production" in " ".join(page.locator(".moves").all_inner_texts())


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
    elif view == "weights":
        search(page, "red couch", "triple")
    elif view == "answer":
        search(page, "red tent", "answered")
        page.locator(".cite").first.click()
    else:
        page.locator("#to-adapters").click()
        page.locator(".adapter").first.wait_for()
    page.locator("main details").evaluate_all("all => all.slice(0, 12).forEach((each) => { each.open = true; })")


@pytest.mark.parametrize("view", ["search", "weights", "answer", "adapters"])
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
