"""The rule on the source of judgments: every grade counts, and an unknown source is no human one."""

from __future__ import annotations

import pytest

from searchlora.errors import UsageError
from searchlora.eval.judgments.sources import SourceCounts
from searchlora.eval.policy import Facts, Policy, RuleResult, decide, read_policy
from tests.eval.policy.test_decide import ROLES, compared


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
