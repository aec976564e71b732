"""Sensitivity to unjudged documents: worked examples and invariants."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.eval.measures import retrieval_values
from searchlora.eval.trec import ranked
from searchlora.eval.unjudged import unjudged_values as of_plain

#: Best first: u1 and u2 were never judged.
RUN = {"1": {"u1": 5.0, "no": 4.0, "u2": 3.0, "good": 2.0, "fair": 1.0}}
QRELS = {"1": {"no": 0, "good": 2, "fair": 1, "missed": 1}}


def unjudged_values(run, qrels, measures):
    return of_plain(run, qrels, retrieval_values(run, qrels, measures))


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
    # The best grade is 2; j = 0, 1, 2 of u1, u2.
    tried = [0, dcg(2, 0, 0) / dcg(2, 2, 1), dcg(2, 0, 2) / dcg(2, 2, 2)]
    assert values["nDCG@3 unjudged as best"] == pytest.approx(max(tried))
    assert values["MRR@3 unjudged as best"] == 1
    assert values["Recall@3 unjudged as best"] == pytest.approx(2 / 5)
    # Four of five relevant documents are at ranks 1, 3, 4 and 5.
    assert values["AP unjudged as best"] == pytest.approx((1 + 2 / 3 + 3 / 4 + 4 / 5) / 5)


def test_fewer_relevant_documents_can_be_better():
    """Why every j is tried: with both unjudged documents as best, the ideal asks for more than the ranking gives."""
    run = {"1": {"u1": 5.0, "a": 4.0, "b": 3.0, "u2": 2.0}}
    qrels = {"1": {"a": 1, "b": 1}, "2": {"x": 3}}
    found = unjudged_values(run, qrels, ["nDCG@4"])["nDCG@4 unjudged as best"]["1"]
    of_j = [dcg(0, 1, 1) / dcg(1, 1), dcg(3, 1, 1) / dcg(3, 1, 1), dcg(3, 1, 1, 3) / dcg(3, 3, 1, 1)]
    assert of_j[1] > of_j[2]
    assert found == pytest.approx(of_j[1])


def test_a_topic_without_results_scores_zero_and_judged_follows_the_cutoff():
    found = unjudged_values({"1": {}}, QRELS, ["nDCG@3", "P@20"])
    assert {name: rows["1"] for name, rows in found.items()} == dict.fromkeys(
        ["nDCG@3 condensed", "nDCG@3 unjudged as best", "P@20 condensed", "P@20 unjudged as best",
         "Judged@3", "Judged@20"],
        0.0,
    )  # fmt: skip
    assert list(unjudged_values(RUN, QRELS, ["AP"])) == ["AP condensed", "AP unjudged as best", "Judged@10"]


def test_measures_without_a_condensed_form_are_skipped():
    assert list(unjudged_values(RUN, QRELS, ["Bpref", "AP(judged_only=True)", "Judged@5"])) == ["Judged@10"]


SCORES = st.sampled_from([1.0, 2.0, 3.0, 3.0 + 1e-9])
RUNS = st.dictionaries(st.sampled_from("abcdefghij"), SCORES, max_size=10)
GRADES = st.dictionaries(st.sampled_from("acegikm"), st.integers(0, 3), min_size=1)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(run=RUNS, grades=GRADES, more=GRADES)
def test_unjudged_as_best_is_an_upper_bound(run, grades, more):
    measures = ["nDCG@5", "nDCG", "P@3", "RR", "MRR@4", "AP", "Recall@100"]
    runs, qrels = {"1": run, "2": run}, {"1": grades, "2": more}
    plain, found = retrieval_values(runs, qrels, measures), unjudged_values(runs, qrels, measures)
    for measure in measures:
        for topic in qrels:
            worst, best = plain[measure][topic], found[f"{measure} unjudged as best"][topic]
            condensed = found[f"{measure} condensed"][topic]
            assert worst <= best + 1e-9 and worst <= condensed + 1e-9
            if measure in ("P@3", "RR", "MRR@4"):
                assert condensed <= best + 1e-9


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
        assert found[f"{measure} condensed"] == found[f"{measure} unjudged as best"] == plain[measure]
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
