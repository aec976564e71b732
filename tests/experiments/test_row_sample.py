"""Which rows to label: a diverse sample covers rare things, and an uncertain one what a model does not know yet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.data.splits import SPLITS
from searchlora.errors import DataError, PipelineError, UsageError
from searchlora.experiments.row_sample import RowSample
from searchlora.task import GenerationTask, load_generation_task

LABELS = ("delivery", "payment", "returns")


@pytest.fixture(scope="module")
def task() -> GenerationTask:
    return load_generation_task("intent").bound({"kind": "label", "labels": list(LABELS), "out_of_scope": None})


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset in which parcels are delivered and tents are returned; of payment there are two rows."""
    folder = tmp_path_factory.mktemp("few")
    texts = {"delivery": "where is my parcel {}", "returns": "send back tent {}"}
    rows = [{"query": text.format(n), "label": label} for n in range(10) for label, text in texts.items()]
    rows += [{"query": f"pay order {n} by card", "label": "payment"} for n in range(2)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "labels.txt").write_text("\n".join(LABELS))
    options = {"labels": str(folder / "labels.txt")}
    build("intent", folder / "rows.jsonl", format="native", out=folder / "data", options=options)
    return folder / "data"


def records(*queries: str) -> list[dict[str, str]]:
    return [{"id": f"row-{number}", "query": query} for number, query in enumerate(queries)]


@pytest.mark.slow
def test_a_diverse_sample_covers_what_a_random_one_may_miss(task: GenerationTask) -> None:
    rare = [f"how do I pay order {n} by card" for n in range(5)]
    rows = records(*(f"tent {n}" for n in range(200)), *rare)
    chosen = RowSample.parse("diverse=20").choose(rows, task)
    assert max(chosen) >= 200 and len(chosen) <= 20
    assert len(RowSample.parse("random=20").choose(rows, task)) == 20
    assert RowSample.parse("random=500").choose(rows, task) == list(range(205))


@pytest.mark.slow
def test_an_uncertain_sample_has_what_is_between_labels_and_nothing_that_is_labelled(
    task: GenerationTask, labelled: Path
) -> None:
    known = [f"where is my parcel {n}" for n in range(10, 60)] + [f"send back tent {n}" for n in range(10, 60)]
    unsure = [f"where is the parcel of the tent that i sent back {n}" for n in range(3)]
    old = [row["query"] for split in SPLITS for row in load_dataset(labelled).records(split)]
    rows = records(*known, *unsure, *old)
    sample = RowSample.parse("uncertain=2", labelled)
    chosen = sample.choose(rows, task)
    assert len(chosen) <= 2 and chosen == sample.choose(rows, task)
    assert {100, 101, 102}.intersection(chosen) and max(chosen) < 103
    assert RowSample.parse("uncertain=200", labelled).choose(rows, task) == list(range(103))
    with pytest.raises(DataError, match="all rows are labelled"):
        sample.choose(records(*old), task)


@pytest.mark.slow
def test_only_answers_with_a_probability_can_be_uncertain(labelled: Path) -> None:
    rewriting = load_generation_task("rewriting")
    with pytest.raises(UsageError, match="is a dataset of the task 'intent'"):
        RowSample.parse("uncertain=1", labelled).choose(records("a", "b"), rewriting)


@pytest.mark.slow
def test_answers_without_a_probability_are_refused(tmp_path: Path) -> None:
    rows = [{"query": f"red tent {n}", "rewrite": "tent"} for n in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build("rewriting", tmp_path / "rows.jsonl", format="native", out=tmp_path / "data", split_ratios=(1, 0, 0))
    with pytest.raises(UsageError, match="have no probability"):
        RowSample.parse("uncertain=1", tmp_path / "data").choose(records("a", "b"), load_generation_task("rewriting"))


@pytest.mark.slow
def test_nothing_is_learned_from_a_dataset_without_training_rows(task: GenerationTask, tmp_path: Path) -> None:
    rows = [{"query": f"tent {n}", "label": LABELS[n % 3]} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    options = {"labels": str(tmp_path / "labels.txt")}
    data = tmp_path / "data"
    build("intent", tmp_path / "rows.jsonl", format="native", out=data, options=options, split_ratios=(0, 0, 1))
    with pytest.raises(PipelineError, match="has no training rows"):
        RowSample.parse("uncertain=1", data).choose(records("a", "b"), task)


@pytest.mark.parametrize(
    ("text", "labelled", "says"),
    [
        ("some=5", None, "'some=5' is no sample"),
        ("uncertain=5", None, "belong together"),
        ("diverse=5", "data", "belong together"),
        ("", "data", "belong together"),
        ("uncertain=0", "data", "'uncertain=0' is no sample"),
    ],
)
def test_unusable_samples_are_refused(text: str, labelled: str | None, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        RowSample.parse(text, labelled)
