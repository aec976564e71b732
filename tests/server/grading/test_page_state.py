"""The state of the grading page, with answers that arrive when a test wants: raters who leave, and a failed start."""

from __future__ import annotations

from importlib.resources import files

import pytest

from tests.server.browser import run_steps

pytestmark = pytest.mark.slow

ASSETS = files("searchlora.server.grading").joinpath("assets")

#: A server with one pair for each rater, whose answers a test can hold back and release one by one.
BEFORE = """
    page.started = () => !page.element("start").hidden || !page.element("grading").hidden;
    page.saved = [];
    const scale = [{ grade: 0, name: "No" }, { grade: 1, name: "Yes" }];
    page.task = { guideline: "# Grades", scale, max_note_characters: 9 };
    const progress = { done: 1, total: 2 };
    const pair = (id) => (
      { pair: { id, query: `query of ${id}`, title: "", text: "text" }, earlier: null, progress });
    page.answers["/api/task"] = () => page.task;
    for (const rater of ["anna", "ben"]) {
      page.answers[`/api/raters/${rater}/next`] = () => pair(`pair of ${rater}`);
      page.answers[`/api/raters/${rater}/ratings`] = (body) => {
        page.saved.push([rater, body.pair]);
        return pair(`second pair of ${rater}`);
      };
    }
    page.start = (name) => {
      page.element("name").value = name;
      page.element("who").dispatch("submit");
    };
    page.shows = () => (page.element("grading").hidden ? null : page.element("query").textContent);
    page.grades = () => [...page.element("grades").children];
"""


@pytest.fixture
def run(chromium):
    return lambda code, more="": run_steps(chromium, ASSETS, "page.html", code, BEFORE + more)


def test_an_answer_to_a_rater_who_left_is_not_shown_to_the_next(run):
    found = run("""
        page.start("anna");
        await page.until(() => page.shows() === "query of pair of anna", "her pair");
        const saved = page.answers["/api/raters/anna/ratings"];
        page.answers["/api/raters/anna/ratings"] = page.hold(saved);
        page.grades()[1].click();
        await page.until(() => page.held.length === 1, "the grade");
        page.element("leave").click();
        page.start("ben");
        await page.until(() => page.shows() === "query of pair of ben", "his pair");
        page.held[0]();
        await page.settled();
        const shown = page.shows();
        page.grades()[0].click();
        await page.until(() => page.saved.length === 2, "his grade");
        return { shown, saved: page.saved, address: location.hash };
    """)
    assert found["shown"] == "query of pair of ben"
    assert found["saved"] == [["anna", "pair of anna"], ["ben", "pair of ben"]]


def test_a_pair_is_shown_with_its_grades_although_the_guideline_failed_at_first(run):
    found = run(
        """
        const problem = page.element("problem").textContent;
        page.answers["/api/task"] = () => page.task;
        page.start("anna");
        await page.until(() => page.shows(), "a pair");
        return { problem, grades: page.grades().map((each) => each.getAttribute("aria-label")) };
        """,
        'page.answers["/api/task"] = () => new Response("", { status: 500 });',
    )
    assert found == {"problem": "The server failed (500).", "grades": ["Grade 0: No", "Grade 1: Yes"]}
