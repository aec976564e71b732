"""The state of the playground, with answers that arrive when a test wants: old answers, addresses, focus, figures."""

from __future__ import annotations

from importlib.resources import files

import pytest

from tests.server.browser import run_steps

pytestmark = pytest.mark.slow

ASSETS = files("searchlora.server.playground").joinpath("assets")

#: Two pipelines on a server that collects grades, whose answers a test can hold back and release one by one.
BEFORE = """
    const slot = { name: "rewriter", adapter: "rewriter@2", choices: ["on", "off", "base", "rewriter@1"] };
    const fusion = { stage: 1, method: "rrf", parts: ["bm25", "dense"], weights: [1, 1] };
    const common = { object: "pipeline", stages: [], fields: ["history"], documents: 9 };
    const judge = { name: "judge", adapter: "judge@1", choices: ["on", "base"] };
    page.topics = { collects_grades: true, scale: [0, 1, 2, 3], examples: [] };
    page.measured = (value) => ({ measure: "nDCG@10", value, judged: 1, of: 2 });
    page.found = (query, ...documents) => ({
      query, total: documents.length, output: {}, evidence: null, stages: [], milliseconds: 1, topic: "t",
      hits: documents.map((document, place) => (
        { rank: place + 1, document, score: 1, title: document, text: document, grade: null })),
      measured: page.measured(0.5),
    });
    page.asked = [];
    Object.assign(page.answers, {
      "/v1/pipelines": () => ({ data: [
        { id: "mixed", ...common, slots: [slot, judge], fusion },
        { id: "plain", ...common, slots: [], fusion: null },
      ] }),
      "/v1/topics": () => page.topics,
      "/v1/search": (body) => {
        page.asked.push(body);
        return page.stream(page.found(body.query, "d1", "d2"));
      },
    });
"""


@pytest.fixture
def run(chromium):
    return lambda code, address="", more="": run_steps(
        chromium, ASSETS, "playground.html", code, BEFORE + more, address
    )


# Old answers


def test_an_explanation_of_an_earlier_search_is_not_shown_over_a_later_one(run):
    found = run("""
        await page.search("red");
        const [side] = page.sides();
        const search = page.answers["/v1/search"];
        const explained = (body) => ({ verdict: `about ${body.explain}`, stages: [] });
        page.answers["/v1/search"] = (body) => (body.explain ? page.hold(explained)(body) : search(body));
        page.named("Explain this rank: d1").click();
        await page.until(() => page.held.length === 1, "the first explanation");
        await page.search("blue");
        page.held[0]();
        await page.settled();
        const afterSearch = side.querySelector(".explanation").hidden;
        page.named("Explain this rank: d1").click();
        page.named("Explain this rank: d2").click();
        await page.until(() => page.held.length === 3, "both explanations");
        page.held[2]();
        await page.until(() => page.texts(side, ".verdict").length, "the second");
        page.held[1]();
        await page.settled();
        return { afterSearch, verdict: page.texts(side, ".verdict"), problem: page.element("problem").textContent };
    """)
    assert found == {"afterSearch": True, "verdict": ["about d2."], "problem": ""}


def test_an_explanation_opens_at_its_hit_and_stays_there_and_that_of_a_missing_one_below(run):
    found = run("""
        await page.search("red");
        const [side] = page.sides();
        const search = page.answers["/v1/search"];
        const explained = (body) => ({ verdict: `about ${body.explain}`, stages: [] });
        page.answers["/v1/search"] = (body) => (body.explain ? explained(body) : search(body));
        page.answers["/v1/judgments"] = (body) => ({ grade: body.grade, measured: [page.measured(0.7)] });
        const box = side.querySelector(".explanation");
        const place = () => box.parentNode.dataset.document || box.parentNode.className;
        const places = [];
        page.named("Explain this rank: d2").click();
        await page.until(() => page.texts(box, ".verdict").length, "the explanation");
        places.push(place());
        page.element("rater").value = "carla";
        page.named("Grade 2 for d1").click();
        await page.until(() => page.element("status").textContent.startsWith("Saved"), "the grade");
        places.push(place());
        side.querySelector(".missing").value = "d9";
        side.querySelector(".why").dispatch("submit");
        await page.until(() => page.texts(box, ".verdict").includes("about d9."), "that of d9");
        places.push(place());
        return { places, hidden: box.hidden };
    """)
    assert found == {"places": ["d2", "d2", "side"], "hidden": False}


def test_a_grade_without_a_name_is_kept_while_the_name_is_asked_for_at_the_hit(run):
    code = """
        page.answers["/v1/judgments"] = (body) => {
          page.saved = body;
          return { grade: body.grade, measured: [page.measured(0.7)] };
        };
        await page.search("red");
        const [side] = page.sides();
        const grades = page.texts(side, ".grades button");
        page.named("Grade 0 for d1").click();
        page.named("Grade 1 for d1").click();
        const forms = side.querySelectorAll(".asked");
        const asked = page.texts(forms[0], "button");
        const before = [page.saved === undefined, document.activeElement === forms[0].querySelector("input")];
        forms[0].querySelector("input").value = "carla";
        forms[0].dispatch("submit");
        await page.until(() => page.element("status").textContent.startsWith("Saved"), "the grade");
        const { document: id, grade, rater } = page.saved;
        return { grades, asked, before, saved: [id, grade, rater], name: page.element("rater").value,
                 forms: [forms.length, side.querySelectorAll(".asked").length],
                 problem: page.element("problem").textContent };
    """
    assert run(code, more="page.topics.scale = [0, 1];") == {
        "grades": ["0", "1", "0", "1"],
        "asked": ["Save grade 1", "Cancel"],
        "before": [True, True],
        "saved": ["d1", 1, "carla"],
        "forms": [1, 0],
        "name": "carla",
        "problem": "",
    }


def test_hits_show_what_the_judge_gave_them(run):
    found = run("""
        const grades = [{ id: "d1", grade: 2, relevance: 0.712, reason: "It fits." }, { id: "d2", relevance: 0.25 }];
        const found = { ...page.found("red", "d1", "d2", "d3"), output: { grades } };
        page.answers["/v1/search"] = () => page.stream(found);
        await page.search("red");
        const [side] = page.sides();
        return { judged: page.texts(side, ".judged"), reasons: page.texts(side, ".note").filter(Boolean) };
    """)
    assert found == {
        "judged": ["judge: grade 2, relevance 0.71", "judge: relevance 0.25"],
        "reasons": ["The judge's reason: It fits."],
    }


def test_examples_are_offered_until_the_first_search(run):
    more = 'page.topics.examples = [{ query: "red couch", fields: { history: [1] } }, { query: "tent", fields: {} }];'
    found = run(
        """
        const box = page.element("examples");
        const before = [box.hidden, page.texts(box, "button")];
        box.querySelector("button").click();
        await page.until(() => page.element("status").textContent.startsWith("System A"), "the results");
        return { before, after: box.hidden, asked: page.asked.map(({ query, fields }) => [query, fields]) };
        """,
        more=more,
    )
    assert found == {
        "before": [False, ["red couch", "tent"]],
        "after": True,
        "asked": [["red couch", {"history": [1]}]],
    }


def test_a_search_that_breaks_off_keeps_the_hits_of_its_stages_and_says_so(run):
    found = run("""
        const hits = page.found("red", "d1", "d2").hits;
        const stage = { id: "1", stage: 1, kind: "bm25", label: "bm25(k=3)", output: { hits }, flags: [] };
        page.answers["/v1/search"] = () => new Response(`event: stage\\ndata: ${JSON.stringify(stage)}\\n\\n`);
        await page.search("red");
        const [side] = page.sides();
        return { problem: page.element("problem").textContent, summary: page.texts(side, ".summary"),
          hits: side.querySelectorAll(".hit").length, stages: side.querySelectorAll(".stages summary").length };
    """)
    assert "incomplete" in found.pop("problem")
    assert found == {"summary": ["Search failed."], "hits": 2, "stages": 1}


def test_a_grade_of_an_earlier_search_leaves_a_later_one_as_it_is(run):
    found = run("""
        await page.search("red");
        page.answers["/v1/judgments"] = page.hold(({ grade }) => ({ grade, measured: [page.measured(1)] }));
        page.element("rater").value = "carla";
        page.named("Grade 3 for d1").click();
        await page.until(() => page.held.length === 1, "the grade");
        const search = page.answers["/v1/search"];
        page.answers["/v1/search"] = page.hold(search);
        page.element("query").value = "blue";
        page.element("search").dispatch("submit");
        await page.until(() => page.held.length === 2, "the search");
        page.held[0]();
        await page.until(() => page.element("status").textContent.startsWith("Saved"), "saved");
        const meanwhile = page.texts(page.sides()[0], ".summary");
        page.held[1]();
        await page.until(() => page.texts(page.sides()[0], ".hit h3").length, "the hits");
        return { meanwhile, status: page.element("problem").textContent,
          summary: page.texts(page.sides()[0], ".summary"),
          pressed: page.named("Grade 3 for d1").getAttribute("aria-pressed") };
    """)
    assert (found["meanwhile"], found["status"], found["pressed"]) == (["Searching …"], "", "false")
    assert "nDCG@10 0.500" in found["summary"][0]


def test_grades_are_saved_one_after_another_and_take_no_focus_and_no_text_away(run):
    found = run("""
        const [side] = page.sides();
        const long = { ...page.found("red", "d1", "d2") };
        long.hits[1].text = "long ".repeat(100);
        page.answers["/v1/search"] = () => page.stream(long);
        await page.search("red");
        const graded = [];
        page.answers["/v1/judgments"] = page.hold(({ document, grade }) => {
          graded.push(document);
          return { grade, measured: [page.measured(graded.length / 10)] };
        });
        page.element("rater").value = "carla";
        page.named("Text of d2: show all or less").click();
        page.named("Grade 3 for d1").click();
        page.named("Grade 2 for d2").click();
        await page.settled();
        const atOnce = page.held.length;
        page.element("query").focus();
        page.held[0]();
        await page.until(() => page.held.length === 2, "the second grade");
        const focus = document.activeElement.id;
        page.named("Grade 2 for d2").focus();
        page.held[1]();
        await page.until(() => page.texts(side, ".summary")[0].includes("nDCG@10 0.200"), "the second measure");
        const held = document.activeElement;
        return { atOnce, graded, focus, short: side.querySelectorAll(".short").length,
          kept: held === page.named("Grade 2 for d2") && held.getAttribute("aria-label"),
          whole: page.named("Text of d2: show all or less").textContent };
    """)
    assert found == {
        "atOnce": 1,
        "graded": ["d1", "d2"],
        "focus": "query",
        "kept": "Grade 2 for d2",
        "short": 0,
        "whole": "Show less",
    }


# What is shown


def test_a_part_of_a_passage_may_support_several_sentences(run):
    found = run("""
        const text = "A\\u{1f3d5} weighs 2 kg and is red. New.";
        const sentence = (words, start, end) => (
          { sentence: words, citations: [1], supported: true, support: [true], spans: [{ passage: 1, start, end }] });
        const output = { answer: { text: "It is light. It is red. It is light." } };
        const answered = { ...page.found("tent", "d1"), output, evidence: {
          sentences: [sentence("It is light.", 0, 14), sentence("It is red.", 10, 26), sentence("It is light.", 0, 14)],
          passages: [{ number: 1, document: "d1", title: "", text }] } };
        page.answers["/v1/search"] = () => page.stream(answered);
        await page.search("tent");
        const [side] = page.sides();
        const opened = side.querySelectorAll(".cite").map((cite) => {
          cite.click();
          return [page.element("status").textContent, page.texts(side, ".now").join("|")];
        });
        return { opened, whole: page.texts(side, ".passage p")[0] === text, marks: page.texts(side, "mark") };
    """)
    light = ["Passage 1: A\U0001f3d5 weighs 2 kg", "A\U0001f3d5 weighs |2 kg"]
    assert found["opened"] == [light, ["Passage 1: 2 kg and is red.", "2 kg| and is red."], light]
    assert found["whole"] and found["marks"] == ["A\U0001f3d5 weighs ", "2 kg", " and is red."]


def test_a_document_below_the_top_of_a_ranking_is_not_called_missing_from_it(run):
    """Ten hits are shown; the eleventh of the other system is not "only here"."""
    found = run("""
        const search = (total) => ({ pipeline, query }) => page.stream({
          ...page.found(query, ...(pipeline === "plain" ? ["d1", "d2"] : ["d2", "d3"])), total });
        const moves = async (total) => {
          page.answers["/v1/search"] = search(total);
          await page.search("red");
          await page.until(() => page.element("status").textContent.includes("System B"), "both");
          return page.sides().map((side) => side.querySelectorAll(".meta").map((meta) => meta.children[1].textContent));
        };
        page.element("compare").click();
        const deep = await moves(40);
        const whole = await moves(2);
        return { deep, whole };
    """)
    below = "not in the other's top 2"
    assert found["deep"] == [["▲ up 1", below], [below, "▼ down 1"]]
    assert found["whole"] == [["▲ up 1", "only here"], ["only here", "▼ down 1"]]


#: Two systems search, of which one has finished and the other waits.
ONE_WAITS = """
        page.element("compare").click();
        const search = page.answers["/v1/search"];
        page.answers["/v1/search"] = (body) => (body.pipeline === "plain" ? page.hold(search)(body) : search(body));
        page.element("query").value = "red";
        page.element("search").dispatch("submit");
        await page.until(() => page.named("Grade 3 for d1"), "the first system");
"""


def test_a_finished_system_of_two_is_shown_while_the_other_searches(run):
    found = run(f"""{ONE_WAITS}
        const texts = page.sides().map((side) => page.texts(side, ".text").length);
        page.held[0]();
        await page.until(() => page.element("status").textContent.includes("System B"), "both");
        return {{ texts, moves: page.texts(page.sides()[1], ".meta").map((each) => each.includes("same rank")) }};
    """)
    assert found == {"texts": [2, 0], "moves": [True, True]}


def test_an_explanation_is_of_the_system_that_was_searched(run):
    found = run("""
        await page.search("red");
        const [side] = page.sides();
        page.element("query").value = "";
        const searched = side.querySelector("select").value;
        const other = searched === "plain" ? "mixed" : "plain";
        side.querySelector("select").value = other;
        side.querySelector("select").dispatch("change");
        const search = page.answers["/v1/search"];
        page.answers["/v1/search"] = (body) => (body.explain
          ? (page.asked = body.pipeline, { verdict: "about it", stages: [] }) : search(body));
        page.named("Explain this rank: d1").click();
        await page.until(() => page.asked, "the explanation");
        return page.asked === searched;
    """)
    assert found


# Addresses

TWO_SYSTEMS = """
    await page.search("red couch");
    page.element("compare").click();
    await page.until(() => page.element("status").textContent.includes("System B"), "both");
    page.choose(page.sides()[0].querySelectorAll(".slots select")[0], "off");
    await page.until(() => page.element("status").textContent.includes("System B"), "both again");
    const [slider] = page.sides()[0].querySelectorAll(".slider");
    slider.value = "3";
    slider.dispatch("input");
    await page.until(() => page.asked.length === 6, "the weights");
"""


def test_the_address_holds_the_search_with_its_systems(run):
    """A copied address and a reload show the same: query, fields, both systems, slots and weights."""
    address = run(f"""page.element("fields").value = '{{"history": []}}'; {TWO_SYSTEMS} return location.hash;""")
    again = run(
        """
        await page.until(() => page.element("status").textContent.includes("System B"), "both");
        return { asked: page.asked, query: page.element("query").value, address: location.hash };
        """,
        address=address,
    )
    asked = {"top": 10, "trace": True, "stream": True, "record": False}
    common = {"query": "red couch", "fields": {"history": []}, **asked}
    assert again["asked"] == [
        {"pipeline": "mixed", "slots": {"rewriter": "off"}, "weights": [0.7, 0.3], **common},
        {"pipeline": "plain", "slots": {}, "weights": [], **common},
    ]
    assert (again["query"], again["address"]) == ("red couch", address)


def test_weights_of_an_address_stay_as_they_are_until_a_slider_moves(run):
    address = '#q=red&systems=[{"pipeline":"mixed","slots":{},"weights":[0.3333,0.6667]}]'
    found = run(
        """
        await page.until(() => page.asked.length === 1, "the search");
        const kept = decodeURIComponent(location.hash);
        const [slider] = page.sides()[0].querySelectorAll(".slider");
        slider.value = "4";
        slider.dispatch("input");
        await page.until(() => page.asked.length === 2, "the new weights");
        return { kept, weights: page.asked.map(({ weights }) => weights) };
        """,
        address=address,
    )
    assert "0.3333,0.6667" in found["kept"]
    assert found["weights"] == [[0.3333, 0.6667], [0.6, 0.4]]


def test_the_links_of_the_views_keep_the_search_and_an_edited_address_searches(run):
    found = run(f"""{TWO_SYSTEMS}
        const kept = location.hash;
        await page.follow("#view=adapters");
        await page.follow("#view=search");
        const back = location.hash === kept && page.asked.length === 6;
        await page.follow("#q=lamp");
        await page.until(() => page.asked.length === 7, "the lamp");
        await page.settled();
        return {{ back, address: location.hash, sides: page.sides().length, last: page.asked[6] }};
    """)
    assert (found["back"], found["address"], found["sides"]) == (True, "#q=lamp", 1)
    assert (found["last"]["query"], found["last"]["slots"], found["last"]["weights"]) == ("lamp", {}, [])


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("#q=red&systems=%5B%7B%22pip", "The address of this page is incomplete"),
        ('#q=red&systems=[{"pipeline":"gone"}]', "names a pipeline that this server does not have"),
        (
            '#q=red&systems=[{"pipeline":"mixed","slots":{"rewriter":"rewriter@9"}}]',
            "On this server rewriter in mixed cannot be rewriter@9.",
        ),
        (
            '#q=red&systems=[{"pipeline":"plain","weights":[1,2]}]',
            "The weights in the address do not fit pipeline plain.",
        ),
    ],
)
def test_an_address_that_the_server_cannot_follow_says_so(run, address, problem):
    found = run(
        """
        await page.settled();
        const [{ textContent: problem }] = [page.element("problem")];
        await page.search("red");
        return { problem, asked: page.asked.length };
        """,
        address=address,
    )
    assert problem in found["problem"] and found["asked"] == 1
