"""Evaluation of rewrites by retrieval, over all rows."""

from __future__ import annotations

import pytest

from searchlora.outputs import InvalidOutput
from searchlora.task import EvaluationInput
from searchlora.tasks.rewriting.evaluator import evaluate

RECORDS = [
    {"id": "1", "group": "a", "query": "kicks", "rewrite": "running shoes", "needs_rewrite": True, "turn": 1},
    {"id": "2", "group": "a", "query": "red tent", "rewrite": "red tent", "needs_rewrite": False, "turn": 7},
    {"id": "3", "group": "b", "query": "acme 200 lamp", "rewrite": "acme 200 head torch", "protected": ["Acme", "200"]},
]
QRELS = {"1": {"d1": 3}, "2": {"d2": 3}, "3": {"d3": 3}, "other": {"d4": 3}}
RUN = {"1": {"d1": 2.0, "d9": 1.0}, "2": {"d9": 2.0, "d2": 1.0}, "3": {}}


def test_measures_cover_the_given_records_and_topics_without_hits_score_zero():
    found = evaluate(EvaluationInput(RECORDS, ["running shoes", "red tent", "acme torch"], run=RUN, qrels=QRELS))
    assert found.headline == "nDCG@10"
    assert found.values["MRR@10"] == {"1": 1.0, "2": 0.5, "3": 0.0}
    assert found.mean("MRR@10") == pytest.approx(0.5)
    assert any("found nothing" in note for note in found.notes)
    assert found.clusters == {"1": "a", "2": "a", "3": "b"}


def test_an_invalid_output_counts_as_the_original_query():
    found = evaluate(
        EvaluationInput(RECORDS, [InvalidOutput("", "empty"), InvalidOutput("\n", "empty"), "acme 200 head torch"])
    )
    assert found.values["invalid"] == {"1": 1.0, "2": 1.0, "3": 0.0}
    assert set(found.invalid) == {"1", "2"}
    assert found.values["ROUGE-L"]["1"] == 0.0
    assert found.values["ROUGE-L"]["2"] == 1.0
    assert found.values["left alone"] == {"2": 1.0}


@pytest.mark.parametrize(("text", "alone"), [("Red tent!", 1.0), ("red tents", 0.0), ("a red tent", 0.0)])
def test_unchanged_queries_may_differ_in_case_and_punctuation(text, alone):
    assert evaluate(EvaluationInput(RECORDS, ["x", text, "y"])).values["left alone"] == {"2": alone}


@pytest.mark.parametrize(
    ("text", "share"), [("acme 200 torch", 1.0), ("ACME torch", 0.5), ("acme 2000 torch", 0.5), ("torch", 0.0)]
)
def test_protected_words_must_be_kept_whole(text, share):
    assert evaluate(EvaluationInput(RECORDS, ["x", "y", text])).values["protected words kept"] == {"3": share}


def test_without_retrieval_text_overlap_is_the_headline():
    found = evaluate(EvaluationInput(RECORDS, [record["rewrite"] for record in RECORDS]))
    assert found.headline == "ROUGE-L"
    assert found.tested == ("ROUGE-L",)
    assert found.aggregates["BLEU"].value == pytest.approx(100)


def test_records_without_a_reference_are_measured_by_retrieval_alone():
    records = [{key: value for key, value in record.items() if key != "rewrite"} for record in RECORDS]
    found = evaluate(EvaluationInput(records, ["a", "b", "c"], run=RUN, qrels=QRELS))
    assert "ROUGE-L" not in found.values
    assert found.aggregates == {}


def test_slices_by_need_and_turn():
    slices = evaluate(EvaluationInput(RECORDS, ["a", "b", "c"])).slices
    assert slices["needs a rewrite"] == {"1": "yes", "2": "no"}
    assert slices["turn"] == {"1": "1", "2": "6 and later"}


def test_numbers_and_codes_are_protected_where_the_reference_keeps_them():
    record = {"id": "1", "group": "1", "query": "wo0012 6ft 4 lamps", "rewrite": "WO0012 180 cm 4 lamps"}
    for text, share in (("wo0012 180 cm 4 lamps", 1.0), ("180 cm 4 lamps", 0.5), ("lamps", 0.0)):
        assert evaluate(EvaluationInput([record], [text])).values["protected words kept"] == {"1": share}
