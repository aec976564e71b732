"""Sensitivity to unjudged documents: worked examples and invariants."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.eval.measures import retrieval_values
from searchlora.eval.trec import ranked
from searchlora.eval.unjudged import unjudged_values

#: Best first: u1 and u2 were never judged.
RUN = {"1": {"u1": 5.0, "no": 4.0, "u2": 3.0, "good": 2.0, "fair": 1.0}}
QRELS = {"1": {"no": 0, "good": 2, "fair": 1, "missed": 1}}


def dcg(*grades: int) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1))


def test_values_of_a_worked_example():
    found = unjudged_values(RUN, QRELS, ["nDCG@3", "MRR@3", "Recall@3", "AP"])
    values = {name: rows["1"] for name, rows in found.items()}
    assert values["Judged@3"] == pytest.approx(1 / 3)
    # Taken out: no, good, fair.
    assert values["nDCG@3 condensed"] == pytest.approx(dcg(0, 2, 1) / dcg(2, 1, 1))
    assert values["MRR@3 condensed"] == pytest.approx(1 / 2)
    assert values["Recall@3 condensed"] == pytest.approx(2 / 3)
    assert values["AP condensed"] == pytest.approx((1 / 2 + 2 / 3) / 3)


def test_a_topic_without_results_scores_zero_and_judged_follows_the_cutoff():
    found = unjudged_values({"1": {}}, QRELS, ["nDCG@3", "P@20"])
    assert {name: rows["1"] for name, rows in found.items()} == dict.fromkeys(
        ["nDCG@3 condensed", "P@20 condensed", "Judged@3", "Judged@20"], 0.0
    )
    assert list(unjudged_values(RUN, QRELS, ["AP"])) == ["AP condensed", "Judged@10"]


def test_measures_without_a_condensed_form_are_skipped():
    assert list(unjudged_values(RUN, QRELS, ["Bpref", "AP(judged_only=True)", "Judged@5"])) == ["Judged@10"]


SCORES = st.sampled_from([1.0, 2.0, 3.0, 3.0 + 1e-9])
RUNS = st.dictionaries(st.sampled_from("abcdefghij"), SCORES, max_size=10)
GRADES = st.dictionaries(st.sampled_from("acegikm"), st.integers(0, 3), min_size=1)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(run=RUNS, grades=GRADES)
def test_fully_judged_runs_are_unchanged(run, grades):
    judged = {**dict.fromkeys(run, 0), **grades}
    measures = ["nDCG@5", "RR", "AP"]
    plain, found = (
        retrieval_values({"1": run}, {"1": judged}, measures),
        unjudged_values({"1": run}, {"1": judged}, measures),
    )
    for measure in measures:
        assert found[f"{measure} condensed"] == plain[measure]
    assert found["Judged@5"]["1"] == (1 if run else 0)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(run=RUNS, grades=GRADES, cutoff=st.integers(1, 12))
def test_judged_equals_ir_measures_except_for_ties(run, grades, cutoff):
    import ir_measures
    from ir_measures import Judged

    places = {document: float(-place) for place, document in enumerate(ranked(run))}
    metrics = ir_measures.iter_calc([Judged @ cutoff], {"1": grades}, {"1": places}) if run else ()
    theirs = {metric.query_id: metric.value for metric in metrics} or {"1": 0}
    ours = unjudged_values({"1": run}, {"1": grades}, [f"P@{cutoff}"])[f"Judged@{cutoff}"]
    assert ours == pytest.approx(theirs)
