"""Source formats of the judgment task, with synthetic texts; published files are optional."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.errors import DataError, RejectedRows, UsageError
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import train
from searchlora.outputs import Grade
from searchlora.records import Record
from searchlora.task import EvaluationInput
from searchlora.tasks.judgment import task
from searchlora.tasks.judgment.guideline import settings_of
from tests.data.layouts import layout
from tests.data.test_judged_formats import esci_pairs, trec_pool
from tests.factories import write_jsonl

ALL_IN_TRAIN = (1.0, 0.0, 0.0)


def records(source: Path, format: str, out: Path, **options) -> dict[str, Record]:
    build(task, source, format=format, out=out, **{"split_ratios": ALL_IN_TRAIN, **options})
    return {record["id"]: record for split in ("train", "test") for record in load_dataset(out).records(split)}


def pairs(*grades) -> list[Record]:
    """A pair of a query of its own for each grade."""
    return [
        {"id": f"{n}", "group": f"g{n}", "query": "q", "passage": f"p{n}", "grade": grade}
        for n, grade in enumerate(grades)
    ]


def test_trec_dl_records(tmp_path):
    found = records(layout("trecdl", tmp_path), "trecdl", tmp_path / "out")
    assert list(found) == ["7 d1", "7 d3"]
    texts = {"query": "What is a tent?", "passage": "A shelter of cloth."}
    assert found["7 d1"] == {"id": "7 d1", "group": "what is a tent", **texts, "grade": 3}


def test_pairs_of_a_teacher_are_records_with_and_without_a_grade(tmp_path):
    options = {"teacher": "runs", "ungraded": "9"}
    found = records(trec_pool(tmp_path), "trec", tmp_path / "out", options=options, allow_rejects=True)
    assert {id_: each.get("grade") for id_, each in found.items()} == {"5 d1": 3, "5 d2": 0, "5 d3": None, "5 d4": None}
    assert all(isinstance(each["teacher"], float) for each in found.values())
    judge = task.bound(load_dataset(tmp_path / "out").settings)
    target = judge.graded_target(found["5 d3"])
    assert (target.shares, target.teacher, target.relevant) == ((0.0,) * 4, found["5 d3"]["teacher"], 2)
    assert judge.judgment(found["5 d3"]) is None and judge.target(found["5 d3"]) == "0"


def test_cranfield_grades_are_mapped_and_unexplained_pairs_never_sampled(tmp_path):
    found = records(layout("cranfield", tmp_path), "cranfield", tmp_path / "out", options={"unjudged": "2"})
    assert {id_: each["grade"] for id_, each in found.items()} == {"1 1": 3, "1 2": 1, "1 4": 0, "1 5": 0}
    assert found["1 1"]["passage"] == "abstract 1 on flow ." and "title" not in found["1 1"]


def test_esci_uses_the_product_guideline(tmp_path):
    found = records(esci_pairs(tmp_path, "csv"), "esci", tmp_path / "out")
    assert found["7 P1"]["grade"] == 3
    settings = load_dataset(tmp_path / "out").settings
    assert [each["name"] for each in settings["scale"]] == ["irrelevant", "complement", "substitute", "exact"]


def test_grades_are_mapped_to_fewer_and_stored_in_the_settings(tmp_path):
    rows = pairs(*(n % 4 for n in range(8)))
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    found = records(source, "native", tmp_path / "out", options={"grades": "2"})
    assert Counter(each["grade"] for each in found.values()) == {0: 4, 1: 4}
    bound = task.bound(load_dataset(tmp_path / "out").settings)
    assert bound.grades == (0, 1) and bound.settings["relevant"] == 1
    assert bound.output(rows[0]).choices == ("0", "1")


def test_native_tables_contain_grades_as_digits(tmp_path):
    source = tmp_path / "rows.csv"
    source.write_text("id,group,query,passage,grade,title\na b,g,q,p,2,\na c,g,q,r,0,\n", encoding="utf-8")
    found = records(source, "native", tmp_path / "out")["a b"]
    assert found == {"id": "a b", "group": "g", "query": "q", "passage": "p", "grade": 2}


def test_native_rows_may_have_the_score_of_a_teacher_in_place_of_a_grade(tmp_path):
    row = {"group": "red sofa", "query": "red sofa", "passage": "A red sofa."}
    rows = [{**row, "id": "1", "teacher": -0.5}, {**row, "id": "2", "grade": 2, "teacher": 1.5}]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    found = records(source, "native", tmp_path / "out")
    assert ("grade" in found["1"], found["1"]["teacher"]) == (False, -0.5)
    assert (found["2"]["grade"], found["2"]["teacher"]) == (2, 1.5)
    judge = task.bound(load_dataset(tmp_path / "out").settings)
    given = EvaluationInput(list(found.values()), [Grade(2, (0.1, 0.2, 0.6, 0.1))] * 2)
    assert judge.evaluate(given).values["agreement"] == {"2": 1.0}
    assert judge.tune(given.records, given.outputs) == {}
    with pytest.raises(UsageError, match="no record has a grade"):
        judge.evaluate(EvaluationInput(given.records[:1], given.outputs[:1]))
    source.write_text(json.dumps({**row, "id": "3"}))
    with pytest.raises(RejectedRows, match="field 'grade' is missing, and there is no score of a 'teacher'"):
        records(source, "native", tmp_path / "other")


@pytest.mark.parametrize(
    ("options", "reported"),
    [({}, "not relevant .relevant from grade 2"), ({"grades": "2"}, "not relevant"), ({"relevant": "1"}, "relevant")],
)
def test_training_rows_of_one_class_are_a_warning(tmp_path, options, reported):
    records(layout("beir", tmp_path), "beir", tmp_path / "out", options=options)
    warnings = load_dataset(tmp_path / "out").card.warnings
    assert any(re.search(f"all training rows are {reported}.*--option", warning) for warning in warnings), warnings


@pytest.mark.slow
def test_training_on_a_single_grade_is_refused_before_a_run_begins(tmp_path, tiny_base):
    records(layout("beir", tmp_path), "beir", tmp_path / "out", options={})
    with pytest.raises(DataError, match="all training rows have the grade 1, so the judge would learn a constant"):
        train("judgment", tmp_path / "out", "j", TrainingOptions(base=str(tiny_base.path)), store=tmp_path / "store")
    assert not (tmp_path / "store" / ".runs" / "j").exists()


def test_evaluation_on_another_scale_is_refused():
    three = task.bound(settings_of({"grades": "3"}))
    three.check_dataset(three.settings)
    with pytest.raises(UsageError, match="the adapter uses the grades 0, 1, 2, the dataset 0, 1, 2, 3"):
        three.check_dataset(task.default_settings)


def test_integers_are_grades_and_booleans_are_not(tmp_path):
    source = write_jsonl(tmp_path / "rows.jsonl", pairs(3.0, 1.0, 0))
    found = records(source, "native", tmp_path / "out", options={"grades": "3"})
    assert [task.target(each) for each in found.values()] == ["2", "1", "0"]
    write_jsonl(source, pairs(True))
    with pytest.raises(RejectedRows, match=r"'True' is not a whole number"):
        records(source, "native", tmp_path / "other")


def test_a_grade_missing_from_the_guideline_is_rejected(tmp_path):
    source = write_jsonl(tmp_path / "rows.jsonl", pairs(4))
    with pytest.raises(RejectedRows, match=r"field 'grade': 4 is not one of the guideline's \(0, 1, 2, 3\)"):
        records(source, "native", tmp_path / "out")
    write_jsonl(source, pairs("high"))
    with pytest.raises(RejectedRows, match=r"'high' is not a whole number; give it one with --grades high=NUMBER"):
        records(source, "native", tmp_path / "out")


@pytest.mark.slow
def test_published_collections_are_read(tmp_path, real_data):
    found = records(real_data / "trecdl19", "trecdl", tmp_path / "dl")
    assert Counter(pair["grade"] for pair in found.values()) == {0: 885, 1: 526, 2: 566, 3: 280}
    assert len({pair["group"] for pair in found.values()}) == 43
    cranfield = records(real_data / "cranfield", "cranfield", tmp_path / "cranfield")
    assert len(cranfield) == 1612 - 1  # one of the graded pairs is with an empty abstract


def test_grades_that_are_given_replace_the_guideline_of_products(tmp_path):
    records(esci_pairs(tmp_path, "csv"), "esci", tmp_path / "data", options={"grades": "2"})
    assert len(load_dataset(tmp_path / "data").settings["scale"]) == 2
