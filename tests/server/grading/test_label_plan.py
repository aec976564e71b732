"""Grading by a label plan: its order, its end at the decision, its page and its commands."""

from __future__ import annotations

import json

import pytest

from searchlora.eval.judge.few_labels import LabelWatch
from searchlora.eval.judge.label_plan import LabelPlan
from searchlora.eval.trec import write_run
from searchlora.experiments.judge.pairs import QueryPassage, in_order
from searchlora.records import Document
from searchlora.server.grading.session import PLANNED_RESERVATION_SECONDS
from tests.server.browser import chromium, opened
from tests.server.grading.synthetic import served, synthetic_session

TOPICS = 30
MEASURE = "P@1"


def runs():
    """The candidate finds a document `good`, the baseline one that is not."""
    return [{f"q{n}": {document: 1.0} for n in range(TOPICS)} for document in ("good", "bad")]


def planned_session(folder, **options):
    plan = LabelPlan.of(*runs(), MEASURE, names=("new", "old"))
    pairs = [
        QueryPassage(topic, {"query": topic}, Document(document, document))
        for topic, documents in plan.by_topic().items()
        for document in documents
    ]
    options = {"overlap": 1, **options}
    return plan, synthetic_session(
        folder,
        pairs=in_order(pairs, ((pair.topic, pair.document) for pair in plan.pairs)),
        watch=LabelWatch(plan),
        **options,
    )


def rate(session, rater, shown, grade=None):
    grade = int(shown.pair.document.id == "good") if grade is None else grade
    session.rate(rater, shown.id, grade, seconds=1, note="")


def test_all_raters_get_the_pairs_in_the_order_of_the_plan(tmp_path):
    plan, session = planned_session(tmp_path)
    seen = []
    for number in range(12):
        rater = ("anna", "ben")[number % 2]
        shown = session.next(rater)
        rate(session, rater, shown)
        seen.append((shown.pair.topic, shown.pair.document.id))
    assert seen == [(pair.topic, pair.document) for pair in plan.pairs[:12]]


def test_no_pair_is_left_once_it_is_decided_and_a_correction_opens_it_again(tmp_path):
    plan, session = planned_session(tmp_path)
    shown = []
    while following := session.next("anna"):
        shown.append(following)
        rate(session, "anna", following)
    assert len(shown) < len(plan.pairs) / 2
    progress = session.progress("anna")
    assert (progress.done, progress.total) == (len(shown), len(shown))
    assert progress.outlook == "Decided: the candidate is better."
    for earlier in shown[-8:]:
        rate(session, "anna", earlier, grade=int(earlier.pair.document.id != "good"))
    assert session.next("anna") is not None
    assert "Decided" not in session.progress("anna").outlook


def test_with_two_raters_a_pair_counts_when_both_have_rated_it(tmp_path):
    session = planned_session(tmp_path, overlap=2)[1]
    for _ in range(40):
        rate(session, "anna", session.next("anna"))
    assert session.progress("anna").outlook == "The first estimate takes about 20 more pairs."
    while following := session.next("ben"):
        rate(session, "ben", following)
    assert session.progress("ben").outlook == "Decided: the candidate is better."
    assert session.progress("ben").done < 40


def test_a_pair_that_was_left_on_a_screen_is_given_to_another_rater_soon(tmp_path):
    now = [0.0]
    session = planned_session(tmp_path, clock=lambda: now[0])[1]
    left = session.next("anna")
    while (following := session.next("ben")) and len(session._log.ratings) < 30:
        rate(session, "ben", following)
    assert session.progress("ben").outlook == "The first estimate takes about 20 more pairs."
    now[0] = PLANNED_RESERVATION_SECONDS + 1
    session._reserved.pop("ben")
    assert session.next("ben").id == left.id
    rate(session, "ben", session.next("ben"))
    assert session.progress("ben").outlook == "Decided: the candidate is better."


@pytest.mark.slow
def test_the_page_says_how_far_the_decision_is_and_ends_with_it(tmp_path):
    expect = pytest.importorskip("playwright.sync_api").expect
    plan, session = planned_session(tmp_path)
    with served(session) as url, chromium() as browser, opened(browser) as page:
        page.goto(f"{url}#anna")
        page.get_by_label("Grade 1: Relevant").wait_for()
        assert page.locator("#outlook").text_content() == "The first estimate takes about 20 more pairs."
        for number in range(1, len(plan.pairs)):
            grade = page.locator("#text").text_content() == "good"
            page.keyboard.press(str(int(grade)))
            expect(page.locator("#status")).to_contain_text(f" {number} of ")
            if page.locator("#end").is_visible():
                break
        assert page.locator("#decided").text_content() == "Decided: the candidate is better."
        assert f"you have graded {number} pairs" in page.locator("#total").text_content()
        assert number < len(plan.pairs) / 2


@pytest.fixture
def succeeded(cli):
    def call(*arguments):
        called = cli(*arguments)
        assert called.code == 0, called.err
        return called.out

    return call


@pytest.fixture
def written(tmp_path):
    """Files of two runs; human qrels of the first n pairs of a plan."""
    candidate, baseline = runs()
    write_run(tmp_path / "new.trec", candidate, "new")
    write_run(tmp_path / "old.trec", baseline, "old")

    def label(number):
        plan = LabelPlan.read(tmp_path / "plan.json")
        lines = (f"{pair.topic} 0 {pair.document} {int(pair.document == 'good')}\n" for pair in plan.pairs[:number])
        (tmp_path / "human.txt").write_text("".join(lines))
        return tmp_path / "human.txt"

    return label


def test_a_plan_and_labels_of_another_tool_give_a_decision(tmp_path, written, succeeded):
    out = tmp_path / "plan.json"
    both = ["--candidate", tmp_path / "new.trec", "--baseline", tmp_path / "old.trec"]
    said = succeeded("grade", "plan", *both, "--measure", MEASURE, "--out", out)
    assert said.startswith(f"P@1, {tmp_path / 'new.trec'} minus {tmp_path / 'old.trec'}: 60 pairs of 30 topics can")
    said = succeeded("grade", "decide", "--plan", out, "--qrels", written(21))
    following = LabelPlan.read(out).pairs[21]
    assert "n = 30 topics, 21 of 60 pairs labelled." in said
    assert ("Decided" in said) != (f"The next pair: topic {following.topic}, document {following.document}." in said)
    said = succeeded("grade", "decide", "--plan", out, "--qrels", written(60))
    assert "+1.000 (+0.876 to +1.000), n = 30 topics, 60 of 60" in said
    assert said.endswith("Decided: the candidate is better.\n")


def test_an_experiment_asks_for_labels(tmp_path, written, succeeded, refused):
    (tmp_path / "topics.jsonl").write_text(
        "".join(json.dumps({"id": f"q{n}", "query": "x"}) + "\n" for n in range(TOPICS))
    )
    (tmp_path / "llm.txt").write_text("".join(f"q{n} 0 good {n % 3}\nq{n} 0 bad 1\n" for n in range(TOPICS)))
    systems = "name: labels\nsystems: {new: {run: new.trec}, old: {run: old.trec}}\n"
    files = "topics: topics.jsonl\nqrels: {path: llm.txt, source: llm}\n"
    (tmp_path / "systems.yaml").write_text(f"{systems}{files}candidate: new\nbaseline: old\n")
    ask = ["--out", tmp_path / "out", "--ask", tmp_path / "plan.json"]
    said = succeeded("experiment", tmp_path / "systems.yaml", *ask)
    assert (
        "SDCG(max_rel=3)@10, new minus old: 60 pairs of 30 topics can change it, 60 have a grade of the judge." in said
    )
    assert "n = 30 topics, 25 of 60 pairs" in succeeded(
        "grade", "decide", "--plan", tmp_path / "plan.json", "--qrels", written(25)
    )
    (tmp_path / "systems.yaml").write_text(f"{systems}{files}baseline: old\n")
    assert "Name both in the experiment." in refused("experiment", tmp_path / "systems.yaml", *ask)


@pytest.mark.usefixtures("written")
def test_a_plan_and_a_pool_exclude_each_other(tmp_path, succeeded, refused):
    both = ["--candidate", tmp_path / "new.trec", "--baseline", tmp_path / "old.trec"]
    succeeded("grade", "plan", *both, "--measure", MEASURE, "--out", tmp_path / "plan.json")
    (tmp_path / "guide.md").write_text("* 1: Relevant\n* 0: Not relevant\n")
    texts = [
        "--topics",
        "none",
        "--corpus",
        "none",
        "--guideline",
        tmp_path / "guide.md",
        "--scale",
        "0,1",
        "--out",
        "o",
    ]
    said = refused("grade", "serve", *texts, "--plan", tmp_path / "plan.json", "--pool", tmp_path / "new.trec")
    assert "Leave out --pool and --pairs, or --plan." in said
    assert "Give one of --ratings and --qrels." in refused("grade", "decide", "--plan", tmp_path / "plan.json")
