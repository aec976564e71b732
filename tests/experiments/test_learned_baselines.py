"""Baselines learn from enough rows, of the evaluated dataset or of another one, and never from an evaluated row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from searchlora.adapters.store import Store
from searchlora.data.dataset import load_dataset
from searchlora.errors import BaseModelError, DataError, UsageError
from searchlora.experiments.evaluate import evaluate
from searchlora.experiments.learned_baselines import ANY, encoder_baselines, learn_baselines
from searchlora.experiments.options import DEFAULT_ENCODER, EvaluationOptions
from searchlora.models.resolve import CATALOGUE
from searchlora.outputs import Label
from searchlora.task import load_task
from searchlora.tasks.embedding.task import COMMONEST as CLASS
from searchlora.tasks.intent.baselines import COMMONEST as ANSWER
from searchlora.tasks.intent.baselines import LINEAR
from searchlora.tasks.judgment.baselines import BM25, COMMONEST
from searchlora.tasks.rag_answer.baselines import THRESHOLD
from tests.factories import native_dataset, random_adapter

JUDGMENT = load_task("judgment")
ONLY_TEST = (0.0, 0.0, 1.0)
KINDS = ("cosine, cut", "+ boosting")


def dataset(task, folder, rows, **options):
    return load_dataset(native_dataset(task, folder, rows, **options))


def graded(queries, *, name="q", split=None, grades=(0, 3), per_grade=1):
    rows = [
        {"id": f"{name}{n} {g}{k}", "group": f"{name}{n}", "query": f"{name}{n} tent", "passage": f"{name}{n} {g} {k}",
         "grade": g}
        for n in range(queries) for g in grades for k in range(per_grade)
    ]  # fmt: skip
    return [{**row, "split": split} for row in rows] if split else rows


def labelled(labels, training, validation):
    """Rows of each split, and 40 to test on, whose queries begin with their labels."""
    return [
        {"id": f"{split}{n}", "group": f"{split}{n}", "query": f"{labels[n % len(labels)]} {split} {n}",
         "label": labels[n % len(labels)], "split": split}
        for split, count in (("train", training), ("validation", validation), ("test", 40)) for n in range(count)
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("queries", "options", "why"),
    [
        (7, {}, "learned from 14 rows in 7 groups"),
        (3, {"per_grade": 40}, "learned from 240 rows in 3 groups"),
        (200, {"grades": (0,)}, "learned from 200 rows in 200 groups"),
        (60, {}, ""),
    ],
    ids=["few rows", "few groups", "one grade", "enough"],
)
def test_a_baseline_that_learned_from_too_few_rows_is_named(tmp_path, queries, options, why):
    training = [*graded(queries, split="train", **options), *graded(1, name="v", split="validation")]
    data = dataset(JUDGMENT, tmp_path / "data", [*training, *graded(20, name="t", split="test")])
    found = learn_baselines(JUDGMENT.bound(data.settings), data, data.records("test"), "test")
    assert set(found.outputs) == {COMMONEST, BM25}
    assert set(found.too_few) == ({COMMONEST, BM25} if why else set())
    if why:
        (warning,) = found.warnings
        assert why in warning and "at least 100 rows in 50 groups" in warning and "--baseline-data" in warning


def test_more_labels_need_more_rows(tmp_path):
    task = load_task("intent")
    data = dataset(task, tmp_path / "data", labelled([f"label{n}" for n in range(20)], 150, 20))
    found = learn_baselines(task.bound(data.settings), data, data.records("test"), "test")
    assert set(found.too_few) == {ANSWER, LINEAR} == set(found.outputs)
    assert found.too_few[LINEAR].startswith("learned from 150 rows in 150 groups, at least 200 rows in 50 groups")


def test_a_baseline_that_the_training_rows_do_not_allow_is_not_left_out_in_silence(tmp_path):
    task = load_task("rag_answer")

    def row(split, n, answerable):
        passages = [{"id": f"p{n}", "text": f"The tent {n} weighs {n} kilograms."}]
        made = {"id": f"{split}{n}", "group": f"{split}{n}", "question": f"{split} tent {n}?", "passages": passages,
                "answerable": answerable, "split": split}  # fmt: skip
        return {**made, "answer": f"It weighs {n} kilograms [1].", "gold": [f"p{n}"]} if answerable else made

    rows = [row("train", n, True) for n in range(120)] + [row("validation", 500, True)]
    data = dataset(task, tmp_path / "data", [*rows, *(row("test", n, bool(n % 2)) for n in range(900, 920))])
    bound = task.bound(data.settings)
    found = learn_baselines(bound, data, data.records("test"), "test")
    assert set(found.too_few) == {THRESHOLD} and THRESHOLD not in found.outputs
    answerable = [record for record in data.records("test") if record["answerable"]]
    assert learn_baselines(bound, data, answerable, "test").too_few == {}


def test_a_dataset_of_test_rows_has_no_learned_baseline_until_other_data_is_given(tmp_path):
    data = dataset(JUDGMENT, tmp_path / "data", graded(20, name="t"), split_ratios=ONLY_TEST)
    assert data.card.rows == {"train": 0, "validation": 0, "test": 40}
    assert "the train split is empty" in data.card.warnings
    task, records = JUDGMENT.bound(data.settings), data.records("test")
    alone = learn_baselines(task, data, records, "test")
    assert alone.outputs == {} and set(alone.too_few) == {COMMONEST, BM25}
    assert "there is no training row to learn from" in alone.warnings[0]
    # Of the other dataset, the rows of two evaluated queries must not be learned from.
    other = dataset(JUDGMENT, tmp_path / "other", [*graded(80, split="train"), *graded(2, name="t", split="train")])
    left_out = sum(row["group"].startswith("t") for split in ("train", "validation") for row in other.records(split))
    found = learn_baselines(task, data, records, "test", tmp_path / "other")
    assert found.too_few == {} and set(found.outputs) == {COMMONEST, BM25} and left_out == 4
    assert all(not row["group"].startswith("t") for row in found.training)
    assert "of other.jsonl (native, sha256 " in found.notes[0]
    assert found.notes[1].startswith("4 rows with the input or the group of an evaluated record were left out")


def test_rows_that_are_evaluated_are_never_learned_from(tmp_path):
    data = dataset(JUDGMENT, tmp_path / "data", graded(100), split_ratios=(0.8, 0.1, 0.1))
    task = JUDGMENT.bound(data.settings)
    assert learn_baselines(task, data, data.records("train"), "train").outputs == {}


def test_unusable_data_for_baselines_is_refused(tmp_path):
    data = dataset(JUDGMENT, tmp_path / "data", graded(20))
    task, records = JUDGMENT.bound(data.settings), data.records("test")
    rewriting = load_task("rewriting")
    native_dataset(rewriting, tmp_path / "rewrites", rewriting.examples, split_ratios=(1, 0, 0))
    with pytest.raises(DataError, match="is a dataset of the task 'rewriting'"):
        learn_baselines(task, data, records, "test", tmp_path / "rewrites")
    grades = dataset(JUDGMENT, tmp_path / "two", graded(20, grades=(0, 1)), options={"grades": "2"})
    with pytest.raises(UsageError, match="the adapter uses the grades 0, 1, 2, 3, the dataset 0, 1"):
        learn_baselines(task, data, records, "test", grades.folder)
    with pytest.raises(UsageError, match="no baseline of the task 'rewriting' learns"):
        learn_baselines(rewriting, load_dataset(tmp_path / "rewrites"), [], "test", tmp_path / "data")
    with (tmp_path / "two" / "train.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(DataError, match="was changed after it was built"):
        learn_baselines(task, data, records, "test", tmp_path / "two")


def test_baselines_of_a_task_that_does_not_name_them_count_as_learned(tmp_path, monkeypatch):
    data = dataset(JUDGMENT, tmp_path / "data", graded(20))
    monkeypatch.setattr(type(JUDGMENT), "learned_baselines", lambda *_: None)
    monkeypatch.setattr(type(JUDGMENT), "baselines", lambda _, records, __: {"mine": [Label("0")] * len(records)})
    assert set(learn_baselines(JUDGMENT, data, data.records("test"), "test").too_few) == {"mine"}
    empty = dataset(JUDGMENT, tmp_path / "test", graded(20), split_ratios=ONLY_TEST)
    found = learn_baselines(JUDGMENT, empty, empty.records("test"), "test")
    assert (found.outputs, set(found.too_few)) == ({}, {ANY})


def test_classes_of_vectors_are_predicted_from_the_other_dataset(tmp_path):
    task = load_task("embedding")
    rows = [{"id": f"{n}", "group": f"{n}", "query": f"text {n}", "label": "ab"[n % 2]} for n in range(200)]
    data = dataset(task, tmp_path / "data", rows[:20], split_ratios=ONLY_TEST)
    others = [{**row, "id": f"o{row['id']}", "group": f"o{row['id']}"} for row in rows[20:]]
    other = dataset(task, tmp_path / "other", others)
    found = learn_baselines(task, data, data.records("test"), "test", other.folder)
    assert found.too_few == {} and set(found.outputs) == {CLASS}
    assert len(found.training) == other.card.rows["train"]


def over_encoder(tmp_path, queries, encoder, task=JUDGMENT):
    training = [*graded(queries, split="train"), *graded(1, name="v", split="validation")]
    tmp_path.mkdir()
    data = dataset(task, tmp_path / "data", [*training, *graded(20, name="t", split="test")])
    bound, records = task.bound(data.settings), data.records("test")
    learned = learn_baselines(bound, data, records, "test")
    return encoder_baselines(bound, records, learned, encoder, Store(tmp_path / "store"))


@pytest.mark.slow
def test_baselines_over_an_encoder_learn_from_enough_rows(tmp_path, encoder_base):
    folder = str(encoder_base.path)
    names = [f"{encoder_base.path.name} {kind}" for kind in KINDS]
    found = over_encoder(tmp_path / "many", 60, folder)
    assert [system.name for system in found.systems] == names and not found.left_out and found.note is None
    few = over_encoder(tmp_path / "few", 7, folder)
    assert not few.systems and few.note is None
    assert list(few.left_out) == names and few.left_out[names[0]].startswith("learned from ")


@pytest.mark.slow
def test_the_usual_encoder_may_be_missing_and_another_may_not(tmp_path, monkeypatch):
    monkeypatch.setitem(CATALOGUE, DEFAULT_ENCODER, replace(CATALOGUE[DEFAULT_ENCODER], package="no_such_package"))
    found = over_encoder(tmp_path / "usual", 60, DEFAULT_ENCODER)
    assert not found.systems and list(found.left_out) == [f"{DEFAULT_ENCODER} {kind}" for kind in KINDS]
    names = f"{DEFAULT_ENCODER} cosine, cut and {DEFAULT_ENCODER} + boosting"
    assert found.note.startswith(f"Without {names}, which a team would use in place of an adapter: ")
    with pytest.raises(BaseModelError):
        over_encoder(tmp_path / "other", 60, "no-such-encoder")
    without = over_encoder(tmp_path / "none", 60, None)
    assert not without.systems and without.note is None and list(without.left_out) == list(found.left_out)


@pytest.mark.slow
def test_an_evaluation_runs_the_baseline_over_the_encoder(tiny_base, encoder_base, tmp_path):
    task, store = load_task("intent"), Store(tmp_path / "store")
    data = dataset(task, tmp_path / "data", labelled(("tent", "boot"), 120, 4))
    random_adapter(store, "one", task.bound(data.settings), tiny_base, tmp_path / "made", seed=1)
    name = f"{encoder_base.path.name} + logistic regression"
    options = EvaluationOptions(baseline_encoder=str(encoder_base.path), cache_dir=tmp_path / "outputs")
    found = evaluate("one", data.folder, options, store=store)
    assert name in found.baselines and found.comparison.row(name, "accuracy").n == 40
    assert found.comparison.costs[name]["ms per query"] > 0
    assert name in evaluate("one", data.folder, options, store=store).reused
    without = evaluate("one", data.folder, replace(options, baseline_encoder=None), store=store)
    assert name not in without.comparison.systems
