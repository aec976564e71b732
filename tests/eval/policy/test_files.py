"""Policy files, and decisions as JUnit XML and Markdown."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from searchlora.errors import UsageError
from searchlora.eval.ci import summary_markdown, write_junit
from searchlora.eval.policy import RuleResult, read_policy
from tests.eval.policy.test_decide import compared

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
