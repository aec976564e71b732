"""Evaluation of a run: values, slices, clusters and notes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchlora.errors import UsageError
from searchlora.eval.comparison import compare, slice_order
from searchlora.eval.evaluation import by_thirds, confusion_matrix, evaluate_run

QRELS = {str(number): {"a": 2, "b": 1, "c": 0} for number in range(1, 13)}
RUN = {str(number): {"a": 1.0, "b": 2.0, "x": 3.0} for number in range(2, 14)}
TOPICS = {
    str(n): {"query": f"q {n}", "need": f"n{n // 2}", "length": n, "kind": "long" if n > 6 else "short"}
    for n in range(1, 14)
}


def test_every_judged_topic_is_a_row():
    found = evaluate_run(RUN, QRELS, measures=["nDCG@10", "MRR@10"])
    assert set(found.values) == {"nDCG@10", "MRR@10", "zero results"}
    assert all(set(rows) == set(QRELS) for rows in (*found.values.values(), *found.unjudged.values()))
    assert found.values["MRR@10"] == {topic: 0.5 if topic != "1" else 0.0 for topic in QRELS}
    assert found.mean("zero results") == pytest.approx(1 / 12)
    assert (found.headline, found.tested) == ("nDCG@10", ("nDCG@10", "MRR@10"))
    assert found.clusters == {topic: topic for topic in QRELS}
    assert found.notes == (
        "1 topic (13) of the run have no judgments and are left out.",
        "1 topic (1) found nothing and count 0.",
    )


def test_measure_names_state_the_lowest_relevant_grade():
    asked = ["MRR@10", "nDCG@10", "AP(rel=1)", "Recall@100", "AP(judged_only=True)"]
    found = evaluate_run(RUN, QRELS, measures=asked, tested=["MRR@10"], relevant=2, unjudged=False)
    names = ["MRR(rel=2)@10", "nDCG@10", "AP(rel=1)", "Recall(rel=2)@100", "AP(judged_only=True,rel=2)"]
    assert list(found.values) == [*names, "zero results"]
    assert (found.headline, found.tested) == ("MRR(rel=2)@10", ("MRR(rel=2)@10",))
    assert found.values["MRR(rel=2)@10"]["2"] == pytest.approx(1 / 3)
    assert found.values["AP(judged_only=True,rel=2)"]["2"] == pytest.approx(1 / 2)
    assert found.unjudged == {}
    assert list(evaluate_run(RUN, QRELS, measures=["MRR@10"]).values) == ["MRR@10", "zero results"]


def test_topic_fields_make_slices_and_clusters():
    found = evaluate_run(
        RUN, QRELS, topics=TOPICS, slices=["length", "kind"], cluster="need", costs={"ms per query": 3}
    )
    assert found.slices["kind"] == {topic: "long" if int(topic) > 6 else "short" for topic in QRELS}
    assert found.slices["length"] == {
        str(n): "1 to 4" if n < 5 else "5 to 8" if n < 9 else "9 to 12" for n in range(1, 13)
    }
    assert "length has 12 values and is divided into thirds." in found.notes
    assert (found.clusters["2"], found.clusters["3"], found.clusters["4"]) == ("n1", "n1", "n2")
    compared = compare({"run": found}, candidate="run", resamples=100)
    assert compared.groups == 7
    assert compared.costs == {"run": {"ms per query": 3}}
    assert {each.slice for each in compared.slices} == {"length", "kind"}


def test_topics_without_a_field_are_reported():
    topics = {topic: dict(fields) for topic, fields in TOPICS.items()}
    del topics["3"]["kind"], topics["4"]["need"], topics["5"]
    found = evaluate_run(RUN, QRELS, topics=topics, slices=["kind"], cluster="need")
    assert "2 topics have no 'kind' and are in none of its slices." in found.notes
    assert {"3", "5"} & set(found.slices["kind"]) == set()
    assert (found.clusters["4"], found.clusters["5"]) == ("4", "5")


def test_invalid_topic_fields_are_errors():
    with pytest.raises(UsageError, match=r"no judged topic has a field 'colour'.*length"):
        evaluate_run(RUN, QRELS, topics=TOPICS, slices=["colour"])
    many = {str(n): {"a": 1} for n in range(60)}
    with pytest.raises(UsageError, match="60 values"):
        evaluate_run({}, many, topics={t: {"query": f"q{t}"} for t in many}, slices=["query"])
    with pytest.raises(UsageError, match="no judgments"):
        evaluate_run(RUN, {})


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=3), st.integers(-5, 20).map(float), min_size=3))
def test_thirds_are_ranges_that_do_not_overlap(numbers):
    thirds = by_thirds(numbers)
    ends = sorted({(min(m), max(m)) for label in set(thirds.values())
                   for m in [[numbers[row] for row in numbers if thirds[row] == label]]})  # fmt: skip
    assert 1 <= len(ends) <= 3
    assert all(one[1] < two[0] for one, two in pairwise(ends))
    if len(set(numbers.values())) == len(numbers):
        sizes = [list(thirds.values()).count(label) for label in set(thirds.values())]
        assert max(sizes) - min(sizes) <= 1


def test_slices_of_numbers_with_many_digits_are_kept_apart():
    topics = {t: {"date": 20240100 + int(t), "price": 1234.567 + int(t) % 2 / 1000} for t in QRELS}
    found = evaluate_run(RUN, QRELS, topics=topics, slices=["date", "price"])
    assert set(found.slices["date"].values()) == {
        "20240101 to 20240104", "20240105 to 20240108", "20240109 to 20240112",
    }  # fmt: skip
    assert set(found.slices["price"].values()) == {"1234.567", "1234.568"}


def test_slice_values_keep_their_order():
    shown = ["10 to 12", "9", "-1 to 8", "yes", "6 and later", "later"]
    assert sorted(shown, key=slice_order) == [
        "-1 to 8", "6 and later", "9", "10 to 12", "later", "yes",
    ]  # fmt: skip


def test_a_confusion_matrix_counts_every_row_once():
    gold = {"1": "a", "2": "a", "3": "b", "4": "b"}
    found = confusion_matrix(gold, {"1": "a", "2": "b", "3": None, "4": "other"}, ("a", "b"))
    assert found.columns == ("a", "b", "invalid")
    assert found.counts == ((1, 1, 0), (0, 0, 2))


def test_topics_without_a_relevant_document_are_counted_in_the_notes():
    run = {topic: {"d1": 1.0} for topic in ("a", "b", "c")}
    qrels = {"a": {"d1": 2}, "b": {"d1": 1}, "c": {"d1": 0, "d2": -1}}
    count = "{} of 3 topics have no document of grade {} or more"
    assert any(note.startswith(count.format(1, 1)) for note in evaluate_run(run, qrels).notes)
    assert any(note.startswith(count.format(2, 2)) for note in evaluate_run(run, qrels, relevant=2).notes)
    assert not any("have no document" in note for note in evaluate_run(run, {"a": {"d1": 1}}).notes)
