"""The HTML report, parsed and compared with the figures of the comparison."""

from __future__ import annotations

import html
import random

import pytest

from searchlora.eval.calibration import grade_curve
from searchlora.eval.comparison import compare
from searchlora.eval.evaluation import Confusion, Evaluation
from searchlora.eval.formatting import interval, p_value, printable
from searchlora.eval.grade_measures import grade_measures
from searchlora.eval.policy import RuleResult
from searchlora.eval.report.comparison import write_report
from searchlora.eval.report.examples import RetrievedDocument, RowTexts, SystemOutput, extremes
from searchlora.eval.tables import to_markdown
from tests.eval.report.page import Page, comparison, evaluation, topics

pytestmark = pytest.mark.usefixtures("plots")

KINDS = {"candidate": ("strong", None), "baseline": (None, "base"), "both": ("strong", "base")}
HEADLINE = "nDCG@10"


def figure(row, sign=""):
    return (f"{row.value:{sign}.3f}", interval(row.low, row.high, sign))


def written(folder, found, details=None, title="t", inputs=None, **more):
    page = Page(write_report(folder / "report.html", title, found, details or {}, inputs or {}, **more))
    page.check_whole()
    return page


@pytest.fixture(scope="module", params=KINDS)
def compared(request):
    return comparison(*KINDS[request.param])


@pytest.fixture(scope="module")
def page(compared, tmp_path_factory):
    return written(tmp_path_factory.mktemp("page"), compared, inputs={"qrels": "sha256 ab"})


def test_page_is_valid_html(page):
    assert "circular" not in page.source.lower()
    assert page.sections() == [
        "Systems",
        "Paired comparisons",
        "Row by row",
        "Slices",
        "Unjudged documents",
        "Cost and speed",
        "Provenance",
    ]


def test_table_of_systems(page, compared):
    head, *lines = page.tables["Measures of each system"]
    assert [cell[0] for cell in head] == ["system", *compared.measures, "n", "invalid"]
    roles = {compared.candidate: "candidate", compared.baseline: "baseline"}
    for system, line in zip(compared.systems, lines, strict=True):
        assert line[0] == ((system, roles[system]) if system in roles else (system,))
        assert line[1:] == [*(figure(compared.row(system, m)) for m in compared.measures), ("40",), ("0", "of 40")]


def test_table_of_pairs(page, compared):
    """Each pair of each measure once, the columns that matter first."""
    found = []
    for measure in compared.measures:
        head, *lines = page.tables.get(f"Paired comparisons in {measure}", [[]])
        for line in lines:
            a, b = line[0][0].split(" − ")
            pair = compared.pair(a, b, measure)
            found.append(pair)
            counts = f"{pair.wins} / {pair.losses} / {pair.ties}"
            assert [cell[0] for cell in head][:4] == [
                "comparison", f"difference in {measure}", "p corrected", "wins / losses / ties",
            ]  # fmt: skip
            assert line[1:] == [
                (f"{pair.difference:+.3f}", interval(pair.low, pair.high, "+")),
                (p_value(pair.p_corrected),),
                (counts, "n = 40"),
                (f"{pair.effect:+.2f}",),
                (f"{pair.mde:.3f}",),
                (p_value(pair.p),),
                (p_value(pair.p_t),),
            ]
    assert found == list(compared.comparisons)


def test_a_plot_of_every_pair_and_of_every_measure(page, compared):
    labels = [f"Difference in {HEADLINE} for each row, {a} minus {b}" for a, b in compared.main_pairs]
    assert [label for label in page.plots if label.startswith("Difference")] == labels
    for measure in compared.measures:
        texts = next(texts for label, texts in page.plots.items() if label.startswith(f"{measure} of 3 systems"))
        for system in compared.systems:
            assert f"{compared.row(system, measure).value:.3f}" in texts and system in texts


def test_slices_are_marked_if_the_interval_excludes_0(page, compared):
    head, *lines = page.tables[f"{HEADLINE} by kind"]
    means = {(each.value, each.row.system): each.row for each in compared.slices
             if (each.slice, each.row.measure) == ("kind", HEADLINE)}  # fmt: skip
    values = [cell[0] for cell in head[1:]]
    assert head[1:] == [(value, f"n = {means[value, 'base'].n}") for value in values] and len(values) == 3
    for line in lines:
        assert line[1:] == [figure(means[value, line[0][0]]) for value in values]

    head, *lines = page.tables[f"Differences in {HEADLINE} by kind"]
    pairs = {(each.value, each.pair.a, each.pair.b): each.pair for each in compared.slice_pairs
             if (each.slice, each.pair.measure) == ("kind", HEADLINE)}  # fmt: skip
    for (a, b), line in zip(compared.main_pairs, lines, strict=True):
        assert line[0] == (b if compared.candidate else a,)
        for value, cell in zip(values, line[1:], strict=True):
            pair = pairs[value, a, b]
            excludes = pair.low > 0 or pair.high < 0
            mark = "●" if pair.p_corrected <= 0.05 else "○" if excludes else None
            expected_texts = [interval(pair.low, pair.high, "+"), f"p {p_value(pair.p_corrected)}"]
            assert list(cell) == [f"{pair.difference:+.3f}", *([mark] if mark else []), *expected_texts]


def test_section_of_unjudged_documents(page, compared):
    rows = {(row.system, row.measure): row for row in compared.unjudged}
    for line in page.tables["Share of judged documents"][1:]:
        assert line[1:] == [figure(rows[line[0][0], "Judged@10"]), ("40",)]
    for measure in (HEADLINE, "MRR@10"):
        for line in page.tables[f"{measure} with and without unjudged documents"][1:]:
            system = line[0][0]
            assert line[1:] == [
                figure(compared.row(system, measure)),
                figure(rows[system, f"{measure} condensed"]),
                ("40",),
            ]


@pytest.mark.slow
def test_costs_and_their_ratio(page, compared, tmp_path):
    lines = {line[0][0]: line[1:] for line in page.tables["Cost and speed"][1:]}
    if compared.baseline is not None:
        assert lines["strong"] == [("30", "× 1.50"), ("3", "× 1.00")]
        assert lines["base"] == [("20",), ("3",)]
    else:
        assert lines["strong"] == [("30",), ("3",)]
    other = written(tmp_path, compared, base="weak")
    assert other.tables["Cost and speed"][3] == [("strong",), ("30", "× 3.00"), ("3", "× 1.00")]


@pytest.mark.slow
def test_examples_show_the_documents_of_both_with_their_grades(compared, tmp_path):
    found = {
        "strong": SystemOutput("says this", (RetrievedDocument("d1", "A title", 2), RetrievedDocument("d2"))),
        "base": SystemOutput("says that", (RetrievedDocument("d3", grade=0),)),
    }
    details = {row: RowTexts(f"What is asked in {row}?", found, reference="what was wanted") for row in topics()}
    page = written(tmp_path, compared, details)
    a, b = next(pair for pair in compared.main_pairs if set(pair) == {"strong", "base"})
    wins, losses = extremes(compared, a, b)
    values = compared.values[HEADLINE]
    expected_texts = [f"{values[a][row] - values[b][row]:+.3f}What is asked in {row}?" for row in (*wins, *losses)]
    assert [reported for reported in page.summaries if reported in expected_texts] == expected_texts
    place = page.texts.index("reference")
    assert page.texts[place : place + 2] == ["reference", "what was wanted"]
    grades = {"A title": "grade 2", "d2": "unjudged", "d3": "grade 0"}
    for name, grade in grades.items():
        assert page.texts[page.texts.index(name) + 1] == grade


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_circular_is_marked_wherever_the_system_is_named(kind, tmp_path):
    """Law 6, in plots too, and in one whose name is too long for a plot."""
    name = "a system whose name is too long to be drawn in any plot of this page"
    systems = {
        name: evaluation(0.4, 2, circular="the judge works in it", invalid={"q1": "not JSON"}),
        "strong": evaluation(1.5, 3),
        "weak": evaluation(0.0, 1),
    }
    roles = {"candidate": (name, None), "baseline": (None, name), "both": ("strong", name)}[kind]
    compared = compare(systems, candidate=roles[0], baseline=roles[1], resamples=100)
    details = {row: RowTexts(row, {name: SystemOutput("x")}) for row in topics()}
    page = written(tmp_path, compared, details)
    reported = [text for text in [*page.texts, *page.labels] if name in text]
    assert len(reported) > 15
    for text in reported:
        assert text.count(name) == text.count(f"{name} (circular)"), text
    assert f"{name} (circular): the judge works in it" in page.texts
    shortened = [text for texts in page.plots.values() for text in texts if "…" in text]
    assert len(shortened) == 3 and all(text.endswith("(circular)") and len(text) <= 40 for text in shortened)


RULES = (
    RuleResult("enough data", True, "40 rows in 40 groups"),
    RuleResult("beat base", False, "nDCG@10 -0.1", 0.0123456),
    RuleResult("unchanged data", False, "it was changed", None),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rules", "forced", "heading", "line"),
    [
        (RULES, "", "Refused by the policy", "2 of 3 rules of the policy are broken."),
        (RULES, "the team agreed", "Promoted by force", "The reason given: the team agreed"),
        (RULES[:1], "a reason that was not needed", "The policy is met", "1 of 1 rules are met."),
    ],
)
def test_policy_section(compared, tmp_path, rules, forced, heading, line):
    page = written(tmp_path, compared, rules=rules, forced=forced)
    assert ("Promoted by force" in page.source) == (heading == "Promoted by force")
    assert page.sections()[0] == "Policy" and heading in page.labels and line in page.texts
    expected = [
        [("enough data",), ("met",), ("40 rows in 40 groups",), ()],
        [("beat base",), ("broken",), ("nDCG@10 -0.1",), ("0.0123",)],
        [("unchanged data",), ("broken",), ("it was changed",), ("–",)],
    ]
    assert page.tables["Rules of the policy"][1:] == expected[: len(rules)]


@pytest.mark.slow
def test_confusion_matrix_and_reliability_curve(compared, tmp_path):
    human = {f"q{n}": {"a": n % 3, "b": (n + 1) % 3} for n in range(12)}
    reported = {topic: {doc: min(grade + 1.0, 2.0) for doc, grade in row.items()} for topic, row in human.items()}
    points = grade_curve(human, reported)
    matrix = Confusion(("buy", "ask"), ("buy", "ask", "invalid"), ((8, 1, 1), (0, 5, 0)))
    page = written(tmp_path, compared, confusions={"intents": matrix}, curves={"grades": points})
    assert page.tables["Confusion matrix, intents"][1:] == [
        [("buy", "n = 10"), ("8", "80%"), ("1", "10%"), ("1", "10%")],
        [("ask", "n = 5"), ("0",), ("5", "100%"), ("0",)],
    ]
    assert page.tables["Calibration, grades"][1:] == [
        [(f"{p.predicted:.3g}",), (f"{p.observed:.2f}", interval(p.low, p.high)), (str(p.n),), (str(p.groups),)]
        for p in points
    ]
    assert any(label.startswith("Calibration curve, grades") for label in page.plots)


@pytest.mark.slow
def test_many_labels_show_the_most_frequent_confusions(compared, tmp_path):
    labels = tuple(f"label {n}" for n in range(30))
    counts = [[0] * 31 for _ in labels]
    for n in range(30):
        counts[n][n] = 40
    counts[3][7], counts[5][30], counts[9][1] = 12, 9, 10
    for n in range(10, 30):
        counts[n][0] = 1
    matrix = Confusion(labels, (*labels, "invalid"), tuple(map(tuple, counts)))
    page = written(tmp_path, compared, confusions={"intents": matrix})
    assert "Confusion matrix, intents" not in page.tables
    head, *lines = page.tables["Confused most often, intents"]
    assert [cell[0] for cell in head] == ["gold", "predicted", "rows", "share of the label"]
    assert lines[:3] == [
        [("label 3",), ("label 7",), ("12",), ("23.1%", "of 52")],
        [("label 9",), ("label 1",), ("10",), ("20.0%", "of 50")],
        [("label 5",), ("invalid",), ("9",), ("18.4%", "of 49")],
    ]
    assert len(lines) == 12
    each = page.tables["Per label, intents"]
    assert len(each) == 31
    # 40 of 52 rows are predicted as label 3, and no other row is.
    assert each[4] == [("label 3",), ("52",), ("1.000",), ("0.769",), ("0.870",)]
    assert any(text.startswith("51 of 1251 rows are confused, in 23 pairs of labels; the 12") for text in page.texts)


@pytest.mark.slow
def test_an_aggregate_headline_where_less_is_better(tmp_path):
    """No plot of rows and no slices of it: these are of the first measure that has a value per row."""
    rows = [f"q{n}" for n in range(60)]
    systems = {}
    for name, off in (("base", 2), ("strong", 7)):
        gold = {row: n % 3 for n, row in enumerate(rows)}
        reported = {row: grade if n % off else (grade + 1) % 3 for n, (row, grade) in enumerate(gold.items())}
        errors = {row: float(abs(reported[row] - grade)) for row, grade in gold.items()}
        systems[name] = Evaluation(
            "error of grades", {"absolute error": errors}, {}, slices={"third": {row: str(gold[row]) for row in rows}},
            aggregates={"error of grades": grade_measures((0, 1, 2), 1)["mae"].aggregate(gold, reported)},
            less_is_better=("error of grades", "absolute error"),
        )  # fmt: skip
    systems["other"] = Evaluation("error of grades", {}, {}, aggregates=dict(systems["base"].aggregates))
    found = compare(systems, candidate="strong", resamples=300)
    details = {row: RowTexts(f"asked {row}") for row in rows}
    del details["q0"]
    page = written(tmp_path, found, details)
    head, *lines = page.tables["Measures of each system"]
    assert head[1] == ("error of grades", "less is better")
    assert lines[2][2] == ("–",)
    pair = found.pair("strong", "base", "error of grades")
    assert pair.difference < 0 and pair.high < 0
    assert page.tables["Paired comparisons in error of grades"][1][3] == ("–", "n = 60")
    assert f'<b class="good">{pair.difference:+.3f}</b>' in page.source
    assert any(text.startswith("strong beats base by") for text in page.texts)
    assert {"Slices", "Row by row"} & set(page.sections()) == set()  # not of all systems
    del systems["other"]
    page = written(tmp_path, compare(systems, candidate="strong", resamples=300), details)
    wins = sum(
        systems["base"].values["absolute error"][r] > systems["strong"].values["absolute error"][r] for r in rows
    )
    assert any(text.startswith(f"{wins} wins, ") for text in page.texts)
    assert "absolute error by third" in page.tables
    wins_of_strong = page.texts.index("Biggest wins"), page.texts.index("Biggest losses")
    assert '<b class="good">-2.000</b>' in page.source  # a win of strong: its error is the smaller one
    assert wins_of_strong[0] < page.texts.index("asked q2") < wins_of_strong[1]


@pytest.mark.slow
def test_invalid_outputs_are_counted_with_their_reasons(tmp_path):
    """Of the rows that the system answered, also one (`alone`) that the others did not."""
    reasons = {**dict.fromkeys(("q1", "q2"), "not JSON"), "q3": "no such label", "alone": "not JSON"}
    compared = comparison("strong", None, strong={"invalid": reasons})
    page = written(tmp_path, compared)
    assert page.tables["Invalid outputs"][3] == [
        ("strong",),
        ("not JSON (3)", "no such label (1)"),
        ("4", "9.8% of 41"),
    ]
    assert page.tables["Measures of each system"][3][-1] == ("4", "of 41")


def test_one_system_with_one_cluster(tmp_path):
    rows = [f"q{number}" for number in range(6)]
    one = Evaluation("MRR@10", {"MRR@10": dict.fromkeys(rows, 0.5)}, dict.fromkeys(rows, "one"))
    page = written(tmp_path, compare({"raw": one}, candidate="raw", resamples=50))
    assert page.sections() == ["Systems"]
    assert page.tables["Measures of each system"][1][1] == ("0.500", "(no interval)")
    assert not any("nan" in text.split() for text in page.texts)


EVIL = "<script>alert('$x$ & $y$')</script>\""
ODD = "a\x00\x1b[31mb\x9b\u202egpj\u2066\ud800\uffff$x^{2$"


@pytest.mark.slow
@pytest.mark.parametrize("evil", [EVIL, ODD], ids=["markup", "control characters"])
def test_names_and_texts_are_escaped_wherever_they_are_shown(tmp_path, evil):
    """A query log or an adapter's name may hold anything: the page is UTF-8, in reading order, and is written."""
    plain = {
        name: evaluation(
            skill, seed, invalid={"q1": f"reason {evil}"}, notes=(f"note {evil}",),
            slices={f"slice {evil}": {row: f"value {evil}{n % 2}" for n, row in enumerate(topics())}},
            costs={f"cost {evil}": 1.0}, circular=f"why {evil}",
        )
        for name, skill, seed in ((f"one {evil}", 0.1, 1), (f"two {evil}", 1.0, 2))
    }  # fmt: skip
    compared = compare(plain, candidate=f"two {evil}", resamples=100)
    answers = dict.fromkeys(
        plain,
        SystemOutput(f"output {evil}", (RetrievedDocument(f"id {evil}"), RetrievedDocument("d", f"text {evil}", 1))),
    )
    human = {f"q{n}": {"a": n % 2} for n in range(4)}
    page = written(
        tmp_path, compared, {row: RowTexts(f"query {evil}\n{row}", answers, f"wanted {evil}") for row in topics()},
        title=f"title {evil}",
        inputs={f"label {evil}": f"hash {evil}"},
        introduction=f"intro {evil}",
        rules=[RuleResult(f"rule {evil}", False, f"found {evil}", 1.0)],
        forced=f"forced {evil}",
        confusions={f"matrix {evil}": Confusion((f"row {evil}",), (f"column {evil}",), ((3,),))},
        curves={f"curve {evil}": grade_curve(human, human)},
    )  # fmt: skip
    assert "<script" not in page.source
    assert not set(page.source) & {"\x00", "\x1b", "\x9b", "\u202e", "\u2066", "\ud800", "\uffff"}
    everything = [*page.texts, *page.labels]
    words = "title intro reason note slice value cost why output id text query wanted label hash rule found forced"
    for word in [*words.split(), "matrix", "row", "column", "curve", "one", "two"]:
        assert any(f"{word} {printable(evil)}" in text for text in everything), word


@pytest.mark.slow
def test_the_same_figures_give_the_same_bytes(compared, tmp_path):
    one, two = (write_report(tmp_path / name, "t", compared, {}, {}).read_bytes() for name in "ab")
    assert one == two


def test_extremes_are_wins_and_losses_only(compared):
    ours, theirs = (compared.values[HEADLINE][system] for system in ("strong", "weak"))
    wins, losses = extremes(compared, "strong", "weak", 40)
    assert all(ours[row] > theirs[row] for row in wins) and all(ours[row] < theirs[row] for row in losses)
    assert len(wins) + len(losses) == sum(ours[row] != theirs[row] for row in ours)
    assert extremes(compared, "strong", "weak", 1) == ([wins[0]], [losses[0]])
    assert extremes(compared, "base", "base", 3) == ([], [])


def test_each_format_says_which_rules_where_interval_and_p_disagree(tmp_path):
    """Two small samples and twelve measures: the interval of one comparison excludes 0, the corrected p does not."""
    rows = [f"q{n}" for n in range(12)]
    rng = random.Random(1)
    gains = {row: rng.uniform(-0.1, 0.4) for row in rows}
    names = [f"measure {n}" for n in range(12)]
    base = Evaluation("measure 0", {name: dict.fromkeys(rows, 0.5) for name in names}, {})
    ours = Evaluation("measure 0", {name: {row: 0.5 + gains[row] for row in rows} for name in names}, {})
    found = compare({"base": base, "ours": ours}, candidate="ours", resamples=1000)
    pair = found.comparisons[0]
    assert pair.low > 0 and pair.p_corrected > 0.05
    text = write_report(tmp_path / "report.html", "t", found, {}, {}).read_text(encoding="utf-8")
    for form in (to_markdown(found), html.unescape(text)):
        assert "for 'ours − base in measure 0'" in form and "the corrected p decides" in form
    agreeing = compare({"base": base, "ours": base}, candidate="ours", resamples=200)
    assert "decides" not in to_markdown(agreeing)
