"""Evaluation of rewrites by retrieval, over all rows, and baselines."""

from __future__ import annotations

import json

import pytest

from searchlora.outputs import InvalidOutput
from searchlora.task import EvaluationInput
from searchlora.tasks.rewriting.baselines import baseline_outputs, first_and
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


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "text": text} for n, text in enumerate(texts)]


RECORD = {"query": "why?", "rewrite": "why did it rain", "history": turns("rain?", "yes", "where?", "here")}


def test_baselines_of_conversations():
    found = baseline_outputs([RECORD])
    assert found["raw query"] == ["why?"]
    assert found["previous turn + query"] == ["where? here why?"]
    assert found["whole conversation"] == ["rain? yes where? here why?"]
    assert found["first turn + query"] == ["rain? why?"]
    assert found["reference rewrite"] == ["why did it rain"]
    assert "dictionary" not in found
    assert first_and(RECORD, "x") == "rain? x"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Where was Bobby Darin born?", "Bobby Darin"),
        ("what was Ken Norton's career?", "Ken Norton"),
        ("Why Zappa? He left in 1969. Ask Ian Underwood, then Don Preston.", "Zappa"),
        ("Yes. Because he moved to Saint-Denis, Québec.", "Saint-Denis"),
        ("Österreich, then Émilie du Châtelet", "Émilie"),
        ("Yes, he did. no more", ""),
        ("", ""),
    ],
)
def test_the_first_name_of_a_conversation_is_written_twice(text, name):
    record = {"query": "why?", "history": turns(text, "On Monday")}
    (found,) = baseline_outputs([record])["query + first name twice"]
    assert found == f"why? {name or 'Monday'} {name or 'Monday'}"


def test_a_conversation_without_names_has_no_rule_of_names():
    assert "query + first name twice" not in baseline_outputs([RECORD])


def test_the_first_title_that_the_conversation_found_is_written_twice():
    records = [{**RECORD, "titles": ["Ada Lovelace", "Tents"]}, {"query": "tent", "rewrite": "tent"}]
    found = baseline_outputs(records)["query + found title twice"]
    assert found == [f"{RECORD['query']} Ada Lovelace Ada Lovelace", "tent"]
    assert "query + found title twice" not in baseline_outputs([RECORD])


def test_a_record_without_history_is_its_query():
    found = baseline_outputs([RECORD, {"query": "tent", "rewrite": "tent"}])
    assert [outputs[1] for outputs in found.values()] == ["tent"] * 5


def test_dictionary_baseline_uses_the_vocabulary_of_the_dataset(tmp_path):
    (tmp_path / "vocabulary.json").write_text(json.dumps({"kicks": "running shoes"}), encoding="utf-8")
    found = baseline_outputs([{"query": "red kicks", "rewrite": "red running shoes"}], tmp_path)
    assert found["dictionary"] == ["red running shoes"]
    assert "first turn + query" not in found
