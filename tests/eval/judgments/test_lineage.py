"""No judge grades itself (law 6)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchlora.errors import UsageError
from searchlora.eval.judgments.card import JudgmentsCard
from searchlora.eval.judgments.lineage import RunLineage, circular, doubts, query_hash, refuse_circular
from searchlora.eval.text_identity import normalised

QUERIES = {"t1": "red shoes", "t2": "tent pegs"}


def card(*lineage, queries=()):
    return JudgmentsCard("llm", "2026-07-01", judge=lineage[0], judge_lineage=lineage, judge_queries=queries)


def systems(**lineages):
    return {name: RunLineage(tuple(references)) for name, references in lineages.items()}


@pytest.mark.parametrize(
    ("judge", "system", "named"),
    [
        (["judge@3"], ["judge@3"], "judge@3"),
        (["judge@3"], ["rewriter@1", "judge@2"], "judge@3"),  # another version is the same name's
        (["judge@3", "first@1"], ["ranker@1", "first@2"], "first@1"),  # an ancestor in common
        (["judge@3", "first@1"], ["first@1"], "first@1"),  # the judge comes from the ranker
        (["base tiny"], ["base tiny"], "base tiny"),
    ],
)
def test_a_judge_that_is_part_of_the_system_is_circular(judge, system, named):
    found = circular(card(*judge), systems(suspect=system, other=["else@1"]), QUERIES)
    assert found == {"suspect": f"the judge {judge[0]} and the system share {named}"}


@pytest.mark.parametrize(
    ("judge", "system"),
    [
        (["judge@3"], ["judge-2@3", "rewriter@3"]),
        (["judge@3"], ["base tiny"]),  # an adapter and its bare base answer differently
        (["base tiny"], ["base tiny-2", "tiny@1"]),
        (["judge@3"], []),
    ],
)
def test_unrelated_judge_and_system_are_not_circular(judge, system):
    assert circular(card(*judge), systems(one=system), QUERIES) == {}


def test_a_judge_trained_on_a_topic_makes_every_system_circular():
    found = circular(card("judge@3", queries=(query_hash("RED  shoes"),)), systems(one=[], two=["judge@1"]), QUERIES)
    assert found["one"] == "the judge judge@3 was trained on 1 of the 2 topics (t1)"
    assert found["two"].startswith("the judge judge@3 and the system share judge@3; the judge judge@3 was trained on")


def test_human_and_unknown_judgments_are_never_circular():
    for judgments in (None, JudgmentsCard("human", "2026-07-01")):
        assert circular(judgments, systems(one=["judge@3"]), QUERIES) == {}
        assert doubts(judgments, {"one": None}) == ()


def test_a_circular_judge_is_refused_unless_allowed():
    judgments, known = card("judge@3"), systems(one=["judge@1"], two=[])
    with pytest.raises(
        UsageError, match=r"system one: the judgments are circular for 1 of 2 systems: .* share judge@3"
    ):
        refuse_circular(judgments, known, QUERIES)
    assert refuse_circular(judgments, known, QUERIES, allow=True).keys() == {"one"}
    assert refuse_circular(judgments, systems(two=[]), QUERIES) == {}


def test_unknown_lineage_is_reported():
    reported = doubts(card("judge@3", queries=None), {"one": None, "two": RunLineage(())})
    assert reported == (
        "It is not known on which queries the judge judge@3 was trained.",
        "It is not known which adapters work in one (a run without a card).",
    )
    assert circular(card("judge@3", queries=None), {"one": None}, QUERIES) == {}
    for strange in (JudgmentsCard("llm", ""), JudgmentsCard("mixed", "", counts={"human": 2, "llm": 3})):
        assert doubts(strange, {}) == ("It is not known who the judge is, nor on which queries it was trained.",)
    assert doubts(JudgmentsCard("mixed", "", counts={"human": 2, "clicks": 3}), {}) == ()


@given(st.text(), st.text())
def test_query_hash_and_leak_check_agree_on_equal_queries(one, two):
    assert (query_hash(one) == query_hash(two)) == (normalised(one) == normalised(two))
