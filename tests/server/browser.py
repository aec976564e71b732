"""Playwright drives the Chromium of the system; its own browsers are not downloaded."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from playwright.sync_api import Browser, Locator, Page, Route

STEPS = Path(__file__).with_name("page_steps.js").read_text("utf-8")

#: Milliseconds: longer than a response takes on a busy machine.
TIMEOUT = 60_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without windows, or a skipped test where Playwright or Chromium is not installed.

    While it is open, its thread has a running event loop, so no test in that thread can call `asyncio.run`.
    """
    api = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on the path")
    api.expect.set_options(timeout=TIMEOUT)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, *, errors: bool = False) -> Iterator[Page]:
    """A page with storage of its own; errors in its console fail the test unless `errors`."""
    with browser.new_context(viewport={"width": 1440, "height": 900}) as context:
        context.set_default_timeout(TIMEOUT)
        page = context.new_page()
        reported: list[str] = []
        page.on("pageerror", lambda error: reported.append(str(error)))
        page.on("console", lambda line: reported.append(line.text) if line.type == "error" else None)
        yield page
        assert errors or reported == []


def run_steps(
    browser: Browser, assets: Traversable, page_file: str, code: str, before: str, address: str = ""
) -> object:
    """Load a page from its files, with the answers that `before` gives, and return what the steps of a test return.

    `page_steps.js` has the helpers for both.
    """

    def file_of(route: Route) -> None:
        name = route.request.url.partition("#")[0].rpartition("/")[2] or page_file
        kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "html": "text/html"}
        content = assets.joinpath(name).read_bytes()
        route.fulfill(body=content, content_type=kinds[name.rpartition(".")[2]])

    with opened(browser, errors=True) as page:
        page.route("**/*", file_of)
        page.add_init_script(f"{STEPS}\n{before}")
        page.goto(f"http://page.test/{address}")
        return page.evaluate(f"async () => {{ await page.begun(); {code} }}")


def tab_to(target: Locator, most: int = 160) -> None:
    """Press Tab until an element that matches has the focus."""
    page = target.page
    for _ in range(most):
        if target.evaluate_all("all => all.includes(document.activeElement)"):
            return
        page.keyboard.press("Tab")
    focused = page.evaluate("document.activeElement.outerHTML.slice(0, 200)")
    raise AssertionError(f"not in reach of Tab: {target}; focus is on {focused}")


def fits(page: Page) -> bool:
    """Whether the page is no wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def faults(page: Page) -> list[str]:
    """Violations of rules of axe-core that are serious or critical: the rule, and the elements."""
    spec = importlib.util.find_spec("axe_core_python")
    if spec is None or spec.origin is None:
        pytest.skip("axe-core-python is not installed")
    if not page.evaluate("'axe' in window"):
        page.evaluate(Path(spec.origin).with_name("axe.min.js").read_text("utf-8"))
    violations = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then(({violations}) => violations)")
    return [
        f"{each['id']} ({each['impact']}): {[node['html'][:160] for node in each['nodes'][:4]]}"
        for each in violations
        if each["impact"] in ("serious", "critical")
    ]
