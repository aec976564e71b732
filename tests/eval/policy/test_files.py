"""Policy files, and decisions as JUnit XML and Markdown."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from searchlora.errors import UsageError
from searchlora.eval.ci import summary_markdown, write_junit
from searchlora.eval.judgments.sources import SourceCounts
from searchlora.eval.policy import Facts, Policy, RuleResult, decide, read_policy
from searchlora.eval.policy.changes import changes
from tests.eval.policy.test_decide import ROLES, compared

RESULTS = (
    RuleResult("beat base", True, "nDCG@10 +0.050 (+0.036 to +0.064) against base"),
    RuleResult("slice turn = 3 | 4", False, "nDCG@10 -0.040 <b>", 0.02),
    RuleResult("no circular judge", False, "the judge is the candidate", None),
)


def test_a_policy_file_is_read(tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text("beat:\n  base: {margin: 0.02}\nslices:\n  turn: {max_fall: 0.1, values: ['3']}\n")
    policy = read_policy(file)
    assert policy.beat.keys() == {"base"}
    assert policy.slices["turn"].values == ("3",)
    file.write_text("")
    assert read_policy(file).beat.keys() == {"base", "incumbent"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("beats: {}", "'beats'.*rules of a policy: measure, beat"),
        ("beat: {base: {margin: -1}}", "'beat.base.margin'"),
        ("slices: {turn: {by: mood}}\nbeats: {}", "'slices.turn.by'.*'beats'"),
        ("slices: {turn: {min_rows: 0}}", "'slices.turn.min_rows'"),
        ("data: shop", "'data'"),
        ("beat: [", "not YAML"),
    ],
)
def test_an_invalid_policy_names_its_key(tmp_path, text, message):
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_policy(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_policy(tmp_path / "none.yaml")


def test_junit_has_a_case_per_rule(tmp_path):
    write_junit(tmp_path / "junit.xml", "new@2", RESULTS)
    (suite,) = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
    failures = {case.get("name"): case.find("failure") for case in suite}
    assert failures["beat base"] is None
    assert "<b>; missed by 0.02" in failures["slice turn = 3 | 4"].text


def test_the_summary_begins_with_the_outcome():
    text = summary_markdown("new@2 to production", compared(0.05), RESULTS, reason="agreed")
    assert text.startswith(
        "### new@2 to production: promoted by force, 2 of 3 rules broken\n\n**Promoted by force:** agreed"
    )
    assert text.index("no circular judge") < text.index("beat base")
    assert "slice turn = 3 \\| 4" in text
    assert "<details>" in text
    needless = summary_markdown("new@2 to production", compared(0.05), RESULTS[:1], reason="agreed")
    assert needless.startswith("### new@2 to production: passes\n") and "by force" not in needless


def test_names_with_control_characters_and_markup_stay_text(tmp_path):
    """A JUnit file is valid XML for any name of an adapter or slice, and names add no markup to a summary."""
    odd = "two\x00\x1b[31m\u202e\ud800 </details><img src=x> [y](http://z)\n# h"
    results = [RuleResult(f"slice {odd}", False, f"found {odd}", 0.1)]
    write_junit(tmp_path / "junit.xml", odd, results)
    root = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert [case.get("name") for case in root.iter("testcase")] != []
    text = summary_markdown(odd, compared(0.05), results, reason=odd)
    text.encode("utf-8")
    head = text.partition("<details>")[0]
    assert "<img" not in text and "</details>" not in head and "](http" not in text
    assert "# h" not in text.splitlines()
    assert not set(text) & {"\x00", "\x1b", "\u202e"}


# Differences between two policies, and what is none


def changed(before, after):
    return changes(*(Policy.model_validate(each).model_dump(mode="json") for each in (before, after)))


def test_order_comments_and_spelling_of_a_file_are_no_change(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "beat:\n  base: {margin: 0.0}\n  incumbent: {}\n  baselines: [BM25, tf-idf]\njudgments: [human, mixed]\n"
        "slices: {kind: {values: [a, b]}}\nmin_rows: 20\n"
    )
    (tmp_path / "b.yaml").write_text(
        "# renamed\nmin_rows: 20   # rows\nslices:\n  kind:\n    values: [b, a]\njudgments: [mixed, human]\n"
        "beat: {incumbent: {margin: 0}, baselines: [TF-IDF, bm25], base: {}}\nheld_out: null\n"
    )
    a, b = (read_policy(tmp_path / name).model_dump(mode="json") for name in ("a.yaml", "b.yaml"))
    assert changes(a, b) == changes(b, a) == ()


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ({"beat": {"base": {}}}, {"beat": {"base": {"margin": 0.1}}}, "beat.base.margin was 0.0, is 0.1"),
        ({"beat": {"base": {}}}, {"beat": {"base": {}, "x": {}}}, "beat.x.margin was not set, is 0.0"),
        ({"beat": {"baselines": ["BM25"]}}, {"beat": {"baselines": "all"}}, "baselines.systems was [bm25], is all"),
        ({"slices": {"kind": {"values": ["a"]}}}, {"slices": {"kind": {}}}, "slices.kind.values was [a], is not set"),
        ({"max_invalid_rate": 0.1}, {}, "max_invalid_rate was 0.1, is not set"),
        ({"judgments": ["human"]}, {"judgments": ["llm", "human"]}, "judgments was [human], is [human, llm]"),
    ],
)
def test_each_changed_key_is_shown_with_its_values(before, after, says):
    assert changed(before, after) == (says,)


# The rule on the source of judgments: every grade counts, and an unknown source is no human one


def rule(accepted: tuple[str, ...] | None, *graded: dict[str, int]) -> RuleResult:
    policy = Policy() if accepted is None else Policy.model_validate({"judgments": accepted})
    counts = tuple(SourceCounts(each) for each in graded)
    words = list(dict.fromkeys(each.source for each in counts))
    facts = Facts(ROLES, source="unknown" if "unknown" in words else " and ".join(words), graded=counts)
    (found,) = [result for result in decide(policy, compared(0.05), "new@2", facts) if result.rule.startswith("source")]
    return found


@pytest.mark.parametrize(
    ("accepted", "graded", "passed"),
    [
        (("human",), [{"human": 9}], True),
        (("human",), [{"human": 9, "llm": 1}], False),
        (("human",), [{"human": 9, "unknown": 1}], False),
        (None, [{"human": 9, "llm": 1}], True),  # human and mixed
        (None, [{"human": 9, "unknown": 1}], False),
        (None, [{"llm": 9, "clicks": 1}], False),  # no grade of people among them
        (None, [{"human": 9}, {"llm": 9}], False),  # the qrels of people, and labels of a judge
        (("human", "llm"), [{"human": 9, "llm": 1}], True),
        (("human", "unknown"), [{"human": 9, "unknown": 1}], True),
    ],
)
def test_every_grade_is_of_an_accepted_source(accepted, graded, passed):
    assert rule(accepted, *graded).passed == passed


def test_a_refusal_names_the_grades_and_what_to_do():
    finding = rule(("human",), {"human": 9, "llm": 3, "clicks": 1}).finding
    assert "not accepted: 3 llm, 1 clicks" in finding
    assert "evaluate on grades of an accepted source" in finding
    assert "--judgments-source" in rule(("human",), {"unknown": 9}).finding


def test_a_policy_names_known_sources_only(tmp_path):
    (tmp_path / "policy.yaml").write_text("judgments: [human, people]\n")
    with pytest.raises(UsageError, match=r"'judgments\.1'.*'unknown'"):
        read_policy(tmp_path / "policy.yaml")
