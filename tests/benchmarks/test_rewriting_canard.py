"""Changes of topic, and rows without titles, in the training rows of the CANARD benchmark."""

from __future__ import annotations

import json

import pytest

from benchmarks.rewriting_canard.choices import HELD_OUT, held_out
from benchmarks.rewriting_canard.switches import SHARE, switches, with_switches
from searchlora.data.building import build
from searchlora.data.dataset import load_dataset


@pytest.fixture
def dataset(tmp_path):
    rows = [
        {
            "id": f"d{n}_q2",
            "group": f"article {n % 10}",
            "query": f"was he {n} there",
            "rewrite": f"was Person{n} at Place{n}",
            "needs_rewrite": True,
            "history": [
                {"role": "user", "text": f"who was Person{n}"},
                {"role": "assistant", "text": f"A king of {n}"},
            ],
            "split": ("train", "validation", "test")[max(0, n % 10 - 7)],
        }
        for n in range(60)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    docs = "".join(f"a{n},Person{n},a king of {n}\n" for n in range(60))
    (tmp_path / "docs.csv").write_text(f"id,title,text\n{docs}", encoding="utf-8")
    (tmp_path / "qrels.txt").write_text("".join(f"d{n}_q2 0 a{n} 1\n" for n in range(60)), encoding="utf-8")
    build(
        "rewriting", tmp_path / "rows.jsonl", format="native", out=tmp_path / "out",
        corpus=tmp_path / "docs.csv", qrels=tmp_path / "qrels.txt",
    )  # fmt: skip
    return load_dataset(tmp_path / "out")


def test_a_question_that_stands_alone_follows_another_article(dataset):
    of_id = {record["id"]: record for record in dataset.records("train")}
    found = switches(dataset)
    assert len(found) == round(SHARE * len(of_id)) > 0
    for record in found:
        origin = of_id[record["id"].removesuffix("_switch")]
        assert record["query"] == record["rewrite"] == origin["rewrite"] and not record["needs_rewrite"]
        (before,) = (each for each in of_id.values() if each["query"] == record["history"][-1]["text"])
        assert before["group"] != origin["group"] and record["history"][:-1] == before["history"]


def test_only_the_training_split_changes_and_its_questions_are_judged(dataset, tmp_path):
    more = with_switches(dataset, tmp_path / "more")
    for split in ("validation", "test"):
        assert list(more.records(split)) == list(dataset.records(split))
    rows = {record["id"] for record in (*dataset.records("train"), *switches(dataset))}
    qrels = more.qrels()
    assert all(qrels[name] == dataset.qrels()[name.removesuffix("_switch")] for name in rows)
    assert len(more.documents()) == 60


@pytest.mark.parametrize("imitated", [True, False])
def test_each_row_is_shown_no_titles_once_and_those_with_judgments_are_shown_theirs(dataset, tmp_path, imitated):
    (dataset.folder / "qrels.txt").write_text("".join(f"d{n}_q2 0 a{n} 1\n" for n in range(5, 60)), encoding="utf-8")
    dataset = load_dataset(dataset.folder)
    before = {record["id"]: record for record in (*dataset.records("train"), *switches(dataset))}
    judged = {name for name in before if name.removesuffix("_switch") in dataset.qrels()}
    made = with_switches(dataset, tmp_path / "made", imitated=imitated)
    rows = {record["id"]: record for record in made.records("train")}
    copies = {name for name in rows if name.endswith("_untitled")}
    assert {name.removesuffix("_untitled") for name in copies} == set(before)
    assert not any(rows[name]["titles"] for name in copies)
    assert rows.keys() - copies == judged < set(before)
    assert all(rows[name].get("titles") == before[name].get("titles") for name in judged)
    graded = made.qrels().keys() & rows.keys()
    assert graded == (judged if imitated else judged | {f"{name}_untitled" for name in judged})


def test_choices_are_measured_on_training_articles_that_no_adapter_of_theirs_has_seen(dataset, tmp_path):
    made = held_out(dataset, tmp_path / "choices")
    rows = {split: list(made.records(split)) for split in ("train", "validation", "test")}
    trained, held = ({record["group"] for record in rows[split]} for split in ("train", "validation"))
    before = {record["group"] for record in dataset.records("train")}
    assert trained | held == before and not trained & held and not rows["test"]
    assert len(held) == round(HELD_OUT * len(before)) > 0
    assert not any(record["id"].endswith("_switch") for record in rows["validation"])
