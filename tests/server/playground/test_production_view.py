"""The production view in Chromium: by keyboard, by axe-core, on a phone.

With SEARCHLORA_SCREENSHOTS=FOLDER the view is kept as pictures, to be looked at.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.server.browser import faults, fits, opened, tab_to
from tests.server.in_production import in_production

pytestmark = pytest.mark.slow

expect = pytest.importorskip("playwright.sync_api").expect


@pytest.fixture(scope="module")
def running(tmp_path_factory, tiny_base, corpus_of_search):
    with in_production(tmp_path_factory.mktemp("production"), tiny_base, corpus_of_search) as running:
        yield running


@pytest.fixture
def page(chromium, running):
    with opened(chromium) as page:
        page.goto(f"{running.url}/#view=production")
        page.locator(".production").first.wait_for()
        yield page


def test_the_view_has_no_serious_fault_and_fits_a_phone(page):
    shown = " ".join(page.locator(".production").all_inner_texts())
    for text in (
        "rewriter@1: 90%, rewriter@2: 10%",
        "Users prefer shop_new. 6 prefer shop, 54 prefer shop_new",
        "rewriter@3",
        "gone",
        "down",  # whose searches have all failed, so that it has no times
    ):
        assert text in shown
    page.locator("main details").evaluate_all("all => all.forEach((each) => { each.open = true; })")
    folder = os.environ.get("SEARCHLORA_SCREENSHOTS")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (1440, 390):
            page.set_viewport_size({"width": width, "height": 900})
            assert fits(page), (scheme, width)
            if folder:
                page.screenshot(path=Path(folder) / f"production-{scheme}-{width}.png", full_page=True)
        assert faults(page) == [], scheme


def test_a_query_that_went_wrong_is_searched(page):
    tab_to(page.locator(".queue button", has_text="gone"))
    page.keyboard.press("Enter")
    expect(page.locator("#query")).to_have_value("gone")
    expect(page.locator("#view-search")).to_be_visible()


def test_a_version_is_taken_back_by_keyboard_with_a_reason(page, running):
    tab_to(page.get_by_label("Reason"))
    page.keyboard.insert_text("a complaint about sofas")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("rewriter@production is version 1 now.")
    expect(page.locator("#production")).to_be_focused()
    assert running.store.history("rewriter")[-1].reason == "a complaint about sofas"
    page.locator(".history summary").click()
    expect(page.locator(".moves li").first).to_contain_text("a rollback: a complaint about sofas")
