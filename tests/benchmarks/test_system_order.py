"""The benchmark of system order: thresholds fitted on other topics, rank correlations, and circular judges."""

from __future__ import annotations

import math
from itertools import pairwise

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.statistics.system_order.judges import SCALE, TASKS, Judge, encoding_systems, votes
from benchmarks.statistics.system_order.orders import (
    MEASURE,
    OTHER,
    Measured,
    halves,
    order_rows,
    spread_rows,
    tau_difference,
)
from benchmarks.statistics.system_order.pairs import cut, thresholds
from searchlora.outputs import Grade
from searchlora.prompts import messages
from searchlora.task import EvaluationInput, load_generation_task

TOPICS = [f"t{n}" for n in range(12)]


@pytest.mark.slow
@given(pairs=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(SCALE)), min_size=1, max_size=40))
def test_thresholds_never_split_equal_scores_and_are_the_nearest_possible(pairs):
    scores, grades = [score for score, _ in pairs], [grade for _, grade in pairs]
    found = thresholds(scores, grades, SCALE)
    assert all(low <= high for low, high in pairwise(found))
    for grade, threshold in zip(SCALE[1:], found, strict=True):
        wanted = sum(each >= grade for each in grades)
        off = abs(sum(score >= threshold for score in scores) - wanted)
        assert off == min(abs(sum(score >= other for score in scores) - wanted) for other in [*scores, math.inf])


def test_a_topic_is_graded_with_thresholds_of_the_other_half():
    scores = {topic: {"a": n + 0.1, "b": n + 0.2, "c": n + 0.3} for n, topic in enumerate(TOPICS)}
    human = {topic: {"a": 0, "b": 0, "c": 2} for topic in TOPICS}
    grades, parts = cut(scores, human, (0, 1, 2))
    assert sorted(topic for part in parts for topic in part.judged) == sorted(TOPICS)
    for part in parts:
        assert not set(part.fitted) & set(part.judged)
        seen = [(scores[topic][d], human[topic][d]) for topic in part.fitted for d in "abc"]
        assert part.thresholds == thresholds([score for score, _ in seen], [grade for _, grade in seen], (0, 1, 2))
        for topic in part.judged:
            assert grades[topic] == {d: (0, 2)[scores[topic][d] >= part.thresholds[0]] for d in "abc"}


def values(better: float, *, noise: float, seed: int = 0) -> Measured:
    """Five systems, each `better` than the one before."""
    rng = np.random.default_rng(seed)
    made = {
        f"s{n}": {topic: float(0.3 + n * better + rng.normal(0, noise)) for topic in TOPICS} for n in range(5)
    }  # fmt: skip
    return Measured({MEASURE: made, OTHER: made})


def test_correlations_of_the_same_and_of_the_reversed_order():
    human = values(0.1, noise=0)
    right, reverse = (
        {row["measure"]: row["value"] for row in order_rows("x", human, values(better, noise=0), resamples=50)}
        for better in (0.1, -0.1)
    )
    assert set(right) == {"tau", "tau-ap", "tau, top half", "tau-ap, top half", "tau by P@10"}
    assert set(right.values()) == {1.0}
    assert set(reverse.values()) == {-1.0}


def test_halves_share_no_topic_and_are_summarised_with_their_spread():
    human = values(0.1, noise=0.2)
    for one, other in halves(human, times=5):
        topics = [list(side.by[MEASURE]["s0"]) for side in (one, other)]
        assert sorted(topics[0] + topics[1]) == sorted(TOPICS)
    rows = {row["measure"]: row for row in spread_rows("x", halves(human, times=50))}
    assert rows["tau"]["draws"] == 50
    assert (rows["tau"]["n"], rows["tau"]["queries"]) == (5, 6)
    assert rows["tau"]["low"] <= rows["tau"]["value"] <= rows["tau"]["high"]
    assert {row["value"] for row in spread_rows("x", halves(values(0.1, noise=0), times=5))} == {1.0}


def test_the_difference_of_two_judges_is_paired():
    human, good, bad = values(0.1, noise=0), values(0.1, noise=0.05, seed=1), values(-0.1, noise=0.05, seed=2)
    difference, low, high, p = tau_difference(human, good, bad, resamples=300)
    assert difference > 1.5
    assert low > 1
    assert high <= 2
    assert p < 0.01
    other_way = tau_difference(human, bad, good, resamples=300)
    assert other_way == pytest.approx((-difference, -high, -low, p))
    assert tau_difference(human, good, good, resamples=50) == (0, 0, 0, 1)


def test_a_judge_is_circular_if_its_encoder_or_votes_rank_a_system():
    queries = {topic: f"what is {topic}" for topic in TOPICS}
    grades = {topic: {"a": 1} for topic in TOPICS}
    encoder = Judge("embedding", grades, SCALE, ("base all-minilm-l6-v2",))
    assert set(encoder.circular(queries)) == encoding_systems()
    assert {"dense", "rrf_stem_dense", "rrf_four"} < encoding_systems()
    assert not {name for name in encoding_systems() if name.startswith("bm25")}
    assert Judge("LLM", grades, (0, 1), ("base smollm2-135m-instruct-q4_1",)).circular(queries) == {}
    pooled = {topic: {"a": 1, "b": 2} for topic in TOPICS}
    assert len(votes(pooled, {topic: {"a": 0, "b": 1} for topic in TOPICS}).circular(queries)) == 18


def test_the_judging_task_meets_the_task_contract():
    task = load_generation_task("relevance", TASKS)
    for record in task.examples:
        jsonschema.validate(record, task.record_schema)
        system, user = messages(task, record)
        assert "Yes or No" in system["content"]
        assert record["query"] in user["content"]
        assert record["passage"] in user["content"]
        assert task.parse(task.target(record), record) == Grade(int(record["answer"] == "Yes"))
    right = task.evaluate(EvaluationInput(task.examples, [Grade(1), task.parse("perhaps", task.examples[1])]))
    assert right.mean("accuracy") == 0.5
