"""The state of the playground, with answers that arrive when a test wants: old answers, addresses, focus, figures."""

from __future__ import annotations

import pytest

#: Two pipelines on a server with judged topics, whose answers a test can hold back and release one by one.
BEFORE = """
    const slot = { name: "rewriter", adapter: "rewriter@2", choices: ["on", "off", "base", "rewriter@1"] };
    const fusion = { stage: 1, method: "rrf", parts: ["bm25", "dense"], weights: [1, 1] };
    const common = { object: "pipeline", stages: [], judges: ["judge"], fields: ["history"], documents: 9 };
    const judge = { name: "judge", adapter: "judge@1", choices: ["on", "base"] };
    page.topics = { judged: 5, measure: "nDCG@10", collects_grades: true };
    page.measured = (value) => ({ measure: "nDCG@10", value, judged: 1, of: 2 });
    page.found = (query, ...documents) => ({
      query, total: documents.length, output: {}, evidence: null, stages: [], milliseconds: 1, topic: "t",
      hits: documents.map((document, place) => (
        { rank: place + 1, document, score: 1, title: document, text: document, grade: null })),
      measured: page.measured(0.5),
    });
    page.asked = [];
    page.held = [];
    page.hold = (answer) => (body) => new Promise((resolve) => page.held.push(() => resolve(answer(body))));
    page.settled = () => new Promise((resolve) => setTimeout(resolve, 50));
    Object.assign(page.answers, {
      "/v1/pipelines": () => ({ data: [
        { id: "mixed", ...common, slots: [slot, judge], fusion },
        { id: "plain", ...common, slots: [], judges: [], fusion: null },
      ] }),
      "/v1/topics": () => page.topics,
      "/v1/search": (body) => {
        page.asked.push(body);
        return page.stream(page.found(body.query, "d1", "d2"));
      },
    });
"""


@pytest.fixture
def run(own_steps):
    return lambda code: own_steps(BEFORE, code)


#: A comparison of two systems, as `/v1/topics/compare` computes it.
COMPARED = """
    page.compared = (topics, more = {}) => ({ status: "done", id: "1", result: {
      measure: "nDCG@10", system: { pipeline: "mixed", slots: {}, weights: [], value: 0.5, low: null, high: null },
      baseline: { pipeline: "plain", slots: {}, weights: [], value: 0.4, low: null, high: null }, difference: 0.1,
      low: null, high: null, p: null, n: topics, wins: topics, losses: 0, ties: 0, circular: {}, notes: [],
      topics: Array.from({ length: topics }, (_, place) => (
        { topic: `t${place}`, query: `query ${place}`, fields: {}, system: 0.5, baseline: 0.4, gain: 0.1 })), ...more } });
"""


def test_a_difference_without_a_p_value_claims_no_significance(run):
    """One judged topic: there is no test. `null < 0.001` is true in JavaScript."""
    heading = run(f"""{COMPARED}
        page.answers["/v1/topics/compare"] = () => page.compared(1);
        page.element("compare-form").dispatch("submit");
        await page.until(() => page.texts(page.element("gains"), "h2").length, "the comparison");
        return page.texts(page.element("gains"), "h2");
    """)
    assert heading == ["nDCG@10 +0.100, p –, over 1 topic: 1 better, 0 worse, 0 equal."]


# Old answers


def test_an_explanation_of_an_earlier_search_is_not_shown_over_a_later_one(run):
    found = run("""
        await page.search("red");
        const [side] = page.sides();
        const search = page.answers["/v1/search"];
        const explained = (body) => ({ verdict: `about ${body.explain}`, stages: [] });
        page.answers["/v1/search"] = (body) => (body.explain ? page.hold(explained)(body) : search(body));
        page.named("Why is d1 here?").click();
        await page.until(() => page.held.length === 1, "the first explanation");
        await page.search("blue");
        page.held[0]();
        await page.settled();
        const afterSearch = side.querySelector(".explanation").hidden;
        page.named("Why is d1 here?").click();
        page.named("Why is d2 here?").click();
        await page.until(() => page.held.length === 3, "both explanations");
        page.held[2]();
        await page.until(() => page.texts(side, ".verdict").length, "the second");
        page.held[1]();
        await page.settled();
        return { afterSearch, verdict: page.texts(side, ".verdict"), problem: page.element("problem").textContent };
    """)
    assert found == {"afterSearch": True, "verdict": ["about d2."], "problem": ""}


def test_a_system_that_is_taken_away_is_not_waited_for(run):
    found = run("""
        await page.search("red");
        const search = page.answers["/v1/search"];
        page.answers["/v1/search"] = (body) => (body.pipeline === "plain"
          ? page.hold(() => Response.json({ error: { message: "plain failed" } }, { status: 500 }))(body) : search(body));
        page.element("compare").click();
        await page.until(() => page.held.length === 1, "system B");
        page.element("compare").click();
        page.held[0]();
        await page.settled();
        return { sides: page.sides().length, problem: page.element("problem").textContent };
    """)
    assert found == {"sides": 1, "problem": ""}
