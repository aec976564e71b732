"""Topics by gain: the comparison is that of `eval.compare`, and a circular judge is refused or named."""

from __future__ import annotations

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import UsageError
from searchlora.eval.comparison import compare
from searchlora.eval.evaluation import evaluate_run
from searchlora.eval.judgments.card import JudgmentsCard
from searchlora.eval.judgments.lineage import query_hash
from searchlora.experiments.topic_gains import circular_pipelines, topic_gains
from searchlora.pipelines.pipeline import Pipeline
from searchlora.records import Document

QRELS = {f"q{number}": {"d1": 1, "d2": 1} for number in range(8)}
OURS = {topic: {"d1": 3.0, "x": 2.0, "d2": 1.0} for topic in QRELS} | {"q7": {"x": 1.0}}
THEIRS = {topic: {"x": 3.0, "d1": 2.0} for topic in QRELS} | {"q3": {"d1": 2.0, "d2": 1.0}}


def test_the_figures_are_those_of_the_comparison_and_the_topics_are_in_order():
    found = topic_gains(OURS, THEIRS, {}, QRELS)
    systems = {
        name: evaluate_run(run, QRELS, measures=["nDCG@10"], unjudged=False)
        for name, run in (("system", OURS), ("baseline", THEIRS))
    }
    expected = compare(systems, candidate="system", baseline="baseline", measures=["nDCG@10"])
    assert found.pair == expected.comparisons[0]
    assert found.row("baseline") == expected.row("baseline", "nDCG@10")
    gains = [each.gain for each in found.topics]
    assert gains == sorted(gains, reverse=True) and len(gains) == len(QRELS)
    assert {each.topic for each in found.topics if each.gain < 0} == {"q3", "q7"}


def test_a_judge_that_saw_the_topics_is_refused_or_named():
    card = JudgmentsCard(
        "llm", "2026-07-01", judge="judge@1", judge_lineage=("judge@1",), judge_queries=(query_hash("red couch"),)
    )
    pipelines = {"system": Pipeline.load("bm25", corpus=[Document("d1", "red couch")])}
    topics = {"q1": {"query": "red couch"}}
    with pytest.raises(UsageError, match="was trained on 1 of the 1 topics"):
        circular_pipelines(pipelines, card, topics, Store("none"))
    reasons = circular_pipelines(pipelines, card, topics, Store("none"), allow=True)
    assert set(reasons) == {"system"}
    assert topic_gains(OURS, THEIRS, {}, QRELS, circular=reasons).comparison.circular == reasons
    assert circular_pipelines(pipelines, None, topics, Store("none")) == {}
