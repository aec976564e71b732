"""Reranking stage: a record per passage, and hits in the order of expected grades."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchlora.errors import PipelineError, UsageError
from searchlora.eval.trec import ranked
from searchlora.outputs import Grade
from searchlora.prompts import messages
from searchlora.records import Document, Hit
from searchlora.tasks.judgment import task


def search(passages: int, hits: int) -> dict:
    found = [Hit(f"d{n}", float(hits - n)) for n in range(hits)]
    texts = [{"id": f"d{n}", "title": "T", "text": f"text {n}", "score": float(hits - n)} for n in range(passages)]
    return {"id": "q1", "query": "a tent", "hits": found, "passages": texts}


def test_records_are_per_passage_or_one_for_a_pair():
    several = task.records_from(search(2, 5))
    assert [each["id"] for each in several] == ["q1 d0", "q1 d1"]
    assert several[1] == {"id": "q1 d1", "group": "q1", "query": "a tent", "title": "T", "passage": "text 1"}
    pair = {"id": "q1 d1", "query": "a tent", "passage": "text 1", "title": "", "narrative": "of a topics file"}
    (one,) = task.records_from(pair)
    assert one == {"id": "q1 d1", "group": "q1 d1", "query": "a tent", "passage": "text 1", "title": ""}
    with pytest.raises(PipelineError, match=r"query q1: there are no passages to judge. Put a stage 'passages'"):
        task.records_from({"id": "q1", "query": "a tent"})


def test_hits_are_ordered_by_expected_grade_with_unjudged_ones_last():
    outputs = [Grade(0, (0.9, 0.1, 0.0, 0.0)), Grade(3, (0.0, 0.0, 0.1, 0.9), "Why."), Grade(0, (0.6, 0.0, 0.0, 0.4))]
    found = task.updates(search(3, 5), outputs)
    assert [hit.document for hit in found["hits"]] == ["d1", "d2", "d0", "d3", "d4"]
    assert [hit.score for hit in found["hits"]] == pytest.approx([2.9, 1.2, 0.1, -1.0, -2.0])
    assert [each["id"] for each in found["passages"]] == ["d1", "d2", "d0"]
    assert found["passages"][0]["text"] == "text 1" and found["passages"][0]["score"] == pytest.approx(2.9)
    assert [each["reason"] for each in found["grades"]] == ["Why.", None, None]
    numbers = {"grade": 0, "expected": pytest.approx(1.2), "relevance": pytest.approx(0.4)}
    assert found["grades"][1] == {"id": "d2", **numbers, "probabilities": (0.6, 0.0, 0.0, 0.4), "reason": None}


def test_hits_keep_the_documents_that_a_search_engine_returned():
    given = search(2, 3)
    given["hits"] = [Hit(hit.document, hit.score, Document(hit.document, "its text")) for hit in given["hits"]]
    found = task.updates(given, [Grade(0, (0.9, 0.1, 0.0, 0.0)), Grade(3, (0.0, 0.0, 0.1, 0.9))])
    assert [hit.document for hit in found["hits"]] == ["d1", "d0", "d2"]
    assert all(hit.fetched == Document(hit.document, "its text") for hit in found["hits"])


def test_the_first_stage_counts_with_its_weight_and_unjudged_hits_stay_last():
    outputs = [Grade(1, (0.0, 1.0, 0.0, 0.0)), Grade(2, (0.0, 0.0, 1.0, 0.0)), Grade(1, (0.0, 1.0, 0.0, 0.0))]
    weighted = task.bound(task.settings, {"first_stage_weight": 1.0}).updates(search(3, 5), outputs)
    deviation = math.sqrt(2 / 3)  # of the scores 5, 4, 3
    assert [(hit.document, round(hit.score, 3)) for hit in weighted["hits"][:3]] == [
        ("d0", round(1 + 1 / deviation, 3)),
        ("d1", 2.0),
        ("d2", round(1 - 1 / deviation, 3)),
    ]
    assert [hit.document for hit in weighted["hits"][3:]] == ["d3", "d4"]
    assert weighted["hits"][3].score < weighted["hits"][2].score
    assert [each["expected"] for each in weighted["grades"]] == [1, 2, 1]
    equal = task.bound(task.settings, {"first_stage_weight": 1.0}).updates(search(1, 1), outputs[:1])
    assert equal["hits"][0].score == 1


def test_log_odds_rank_by_the_probability_of_a_relevant_grade_with_a_deviation_of_one():
    outputs = [Grade(1, (0.0, 0.6, 0.4, 0.0)), Grade(3, (0.65, 0.0, 0.0, 0.35)), Grade(0, (1.0, 0.0, 0.0, 0.0))]
    by_grade = [hit.document for hit in task.updates(search(3, 3), outputs)["hits"]]
    found = task.bound(task.settings, {"rank_by": "log_odds"}).updates(search(3, 3), outputs)["hits"]
    assert by_grade == ["d0", "d1", "d2"]  # expected grades 1.4, 1.05 and 0
    assert [hit.document for hit in found] == ["d0", "d1", "d2"]
    scores = [hit.score for hit in found]
    assert sum(scores) == pytest.approx(0, abs=1e-4)
    assert sum(score**2 for score in scores) / 3 == pytest.approx(1, abs=1e-4)
    sure = [Grade(1, (0.0, 1.0, 0.0, 0.0)), Grade(0, (0.7, 0.0, 0.3, 0.0))]
    assert [hit.document for hit in task.updates(search(2, 2), sure)["hits"]] == ["d0", "d1"]
    by_odds = task.bound(task.settings, {"rank_by": "log_odds"}).updates(search(2, 2), sure)["hits"]
    assert [hit.document for hit in by_odds] == ["d1", "d0"]  # grade 1 is not relevant


@pytest.mark.parametrize(
    "tuned",
    [{"first_stage_weight": -1}, {"first_stage_weight": "much"}, {"thresholds": [1]}, {"rank_by": "grade"}],
)
def test_other_values_of_a_pipeline_are_refused(tuned):
    task.check_tuned({"first_stage_weight": 0.3, "rank_by": "log_odds"})
    with pytest.raises(UsageError):
        task.check_tuned(tuned)


def test_empty_hits_and_a_single_pair():
    assert task.updates(search(0, 0), [])["hits"] == []
    assert task.updates({"id": "q", "query": "a", "passage": "b"}, [Grade(2)]) == {"grade": Grade(2)}


@pytest.mark.slow
@given(st.lists(st.sampled_from([0, 1, 2, 3]), min_size=1, max_size=12), st.integers(0, 5))
def test_ties_keep_their_order_in_a_run_file_too(grades, behind):
    context = search(len(grades), len(grades) + behind)
    found = task.updates(context, [Grade(grade) for grade in grades])
    wanted = sorted(range(len(grades)), key=lambda place: -grades[place])
    order = [f"d{place}" for place in [*wanted, *range(len(grades), len(grades) + behind)]]
    assert [hit.document for hit in found["hits"]] == order
    assert list(ranked({hit.document: hit.score for hit in found["hits"]})) == order


def test_the_passage_precedes_the_query_and_is_truncated_at_a_word():
    bound = task.bound({**task.default_settings, "characters": 12})
    record = {"id": "1", "group": "1", "query": "a  tent", "title": "Tents", "passage": "made\nof cloth"}
    (_, user) = messages(bound, record)
    assert user["content"] == "Passage: Tents. made …\nQuery: a tent"
    (_, user) = messages(task, record)
    assert user["content"].startswith("Passage: Tents. made of cloth\n")
    (_, user) = messages(bound, {**record, "title": "", "passage": "x" * 20})
    assert user["content"].startswith("Passage: " + "x" * 12 + " …\n")
    wider = task.bound({**task.default_settings, "characters": 90})  # the only blank is far from the end
    (_, user) = messages(wider, {**record, "title": "标题", "passage": "字" * 600})
    assert user["content"].startswith("Passage: 标题. " + "字" * 86 + " …\n")
