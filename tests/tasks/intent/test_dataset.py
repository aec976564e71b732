"""Source formats of the intent task, with synthetic texts; published files are optional."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from searchlora.data.building import build
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.errors import DataError, RejectedRows, UsageError
from searchlora.records import SourceRow
from searchlora.tasks.intent import task
from tests.factories import read_jsonl, write_jsonl

ALL_IN_TRAIN = (1.0, 0.0, 0.0)
SCHEMA = {
    "type": "object",
    "properties": {
        "need": {"enum": ["buy", "ask", "none of ours"]},
        "brand": {"type": ["string", "null"]},
        "size": {"type": "object", "properties": {"from": {"type": "number"}, "to": {"type": "number"}}},
    },
    "required": ["need"],
    "additionalProperties": False,
}


def _dataset(source: Path, format: str, **options: Any) -> Dataset:
    out = source.with_name(f"{source.name}.built")
    build(task, source, format=format, out=out, **{"split_ratios": ALL_IN_TRAIN, **options})
    return load_dataset(out)


def _jsonl(path: Path, *answers: dict[str, Any]) -> Path:
    rows = [{"id": f"r{n}", "group": f"g{n}", "query": f"query {n}", **answer} for n, answer in enumerate(answers)]
    return write_jsonl(path, rows)


def _refusals(source: Path, format: str, **options: Any) -> list[tuple[str, str]]:
    with pytest.raises(RejectedRows):
        _dataset(source, format, **options)
    rejected = read_jsonl(source.with_name(f"{source.name}.built.rejected.jsonl"))
    return [(row["where"], row["reason"]) for row in rejected]


def _banking(folder: Path) -> Path:
    folder.mkdir()
    train = 'text,category\nwhere is my card,card_arrival\n"lost it, help",lost_card\nWHERE is my card?,card_linking\n'
    (folder / "train.csv").write_text(train, encoding="utf-8")
    (folder / "test.csv").write_text("text,category\nLost it; help!,lost_card\n", encoding="utf-8")
    return folder


# Labelled texts


def test_banking77_keeps_the_official_test_split_and_removes_duplicates_from_training(tmp_path: Path) -> None:
    dataset = _dataset(_banking(tmp_path / "banking77"), "banking77")
    (kept, other) = dataset.records("train")
    assert (kept["id"], kept["query"], kept["label"]) == ("train-1", "where is my card", "card_arrival")
    assert kept["group"] == other["group"] == "where is my card"
    assert [record["id"] for record in dataset.records("test")] == ["test-1"]
    (leak,) = dataset.card.leaks["rows"]
    assert (leak["where"], leak["like_where"]) == ("train.csv, line 3", "test.csv, line 2")
    assert dataset.settings == {"kind": "label", "labels": ["card_arrival", "card_linking"], "out_of_scope": None}


@pytest.mark.slow
def test_the_published_banking77_has_25_training_rows_in_its_test(real_data: Path, tmp_path: Path) -> None:
    build(task, real_data / "banking77", format="banking77", out=tmp_path / "b", split_ratios=(0.96, 0.03, 0.01))
    dataset = load_dataset(tmp_path / "b")
    assert dataset.card.rows["test"] == 3080
    assert dataset.card.rows["train"] + dataset.card.rows["validation"] == 10_003 - 25
    assert dataset.card.leaks["found"] == 25
    assert len((dataset.settings or {})["labels"]) == 77


def test_text_and_label_columns_can_be_named(tmp_path: Path) -> None:
    source = tmp_path / "tickets.csv"
    source.write_text("no,subject,topic\nT1,card lost, cards \nT2,send money,transfers\n", encoding="utf-8")
    options = {"text": "subject", "label": "topic", "id": "no", "out_of_scope": "other"}
    dataset = _dataset(source, "csv", options=options)
    assert [(r["id"], r["query"], r["label"]) for r in dataset.records("train")] == [
        ("T1", "card lost", "cards"),
        ("T2", "send money", "transfers"),
    ]
    assert dataset.settings == {"kind": "label", "labels": ["cards", "transfers"], "out_of_scope": "other"}


# Labels and schemas of the user


def test_a_label_outside_the_list_is_rejected_with_file_row_and_field(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("card_arrival\nlost_card\n", encoding="utf-8-sig")
    found = _refusals(_banking(tmp_path / "banking77"), "banking77", options={"labels": str(tmp_path / "labels.txt")})
    assert found == [("train.csv, line 4", "field 'label': 'card_linking' is not in the list of labels")]


@pytest.mark.parametrize(
    ("content", "reported"), [("", "no label"), ("a\nb\na\n", "'a' twice"), (None, "there is no such file")]
)
def test_an_unusable_label_list_is_an_error(tmp_path: Path, content: str | None, reported: str) -> None:
    if content is not None:
        (tmp_path / "labels.txt").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=reported):
        _dataset(_banking(tmp_path / "b"), "banking77", options={"labels": str(tmp_path / "labels.txt")})


def _schema(folder: Path, schema: Any = SCHEMA) -> dict[str, str]:
    (folder / "schema.json").write_text(json.dumps(schema), encoding="utf-8")
    return {"schema": str(folder / "schema.json")}


def test_objects_are_validated_and_ordered_by_the_schema(tmp_path: Path) -> None:
    source = _jsonl(tmp_path / "rows.jsonl", {"object": {"size": {"to": 3, "from": 1}, "brand": None, "need": "buy"}})
    options = {**_schema(tmp_path), "out_of_scope": "none of ours"}
    dataset = _dataset(source, "native", options=options)
    (record,) = dataset.records("train")
    assert task.target(record) == '{"need":"buy","brand":null,"size":{"from":1,"to":3}}'
    assert dataset.settings == {"kind": "object", "schema": SCHEMA, "out_of_scope": "none of ours"}


def test_an_object_that_violates_the_schema_is_rejected_by_field(tmp_path: Path) -> None:
    source = _jsonl(tmp_path / "rows.jsonl", {"object": {"need": "buy"}}, {"object": {"need": "sell", "price": 3}})
    ((where, reason),) = _refusals(source, "native", options=_schema(tmp_path))
    assert where == "rows.jsonl, line 2"
    assert "object: field 'need': 'sell' is not one of" in reason
    assert "'price' was unexpected" in reason


@pytest.mark.parametrize(
    ("schema", "reported"),
    [
        ([], "not the schema of an object"),
        ({"type": "object", "properties": {"a": {"type": "nothing"}}}, "not a JSON Schema"),
        ({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}, "uniqueItems"),
    ],
)
def test_an_unusable_schema_is_an_error(tmp_path: Path, schema: Any, reported: str) -> None:
    source = _jsonl(tmp_path / "rows.jsonl", {"object": {"a": "b"}})
    with pytest.raises(DataError, match=reported):
        _dataset(source, "native", options=_schema(tmp_path, schema))


def test_objects_need_a_schema_that_contains_the_out_of_scope_value(tmp_path: Path) -> None:
    source = _jsonl(tmp_path / "rows.jsonl", {"object": {"need": "buy"}})
    with pytest.raises(UsageError, match="no schema was given"):
        _dataset(source, "native")
    with pytest.raises(UsageError, match="'elsewhere' among its values"):
        _dataset(source, "native", options={**_schema(tmp_path), "out_of_scope": "elsewhere"})


# One kind of answer


def test_all_rows_must_have_the_kind_of_the_first(tmp_path: Path) -> None:
    source = _jsonl(
        tmp_path / "rows.jsonl", {"label": "a"}, {}, {"labels": ["a"]}, {"label": "b", "labels": ["a"]}, {"label": "b"}
    )
    refused = _refusals(source, "native")
    assert [where for where, _ in refused] == [f"rows.jsonl, line {n}" for n in (2, 3, 4)]
    for (_, reason), part in zip(refused, ("has none", "has the field 'labels'", "label and labels"), strict=True):
        assert part in reason


def test_the_kind_option_selects_among_several_answers(tmp_path: Path) -> None:
    source = _jsonl(tmp_path / "rows.jsonl", {"label": "a", "labels": ["b", "a"]}, {"label": "b", "labels": ["c"]})
    dataset = _dataset(source, "native", options={"kind": "labels"})
    assert [task.target(record) for record in dataset.records("train")] == ['["a","b"]', '["c"]']
    assert all("label" not in record for record in dataset.records("train"))
    assert dataset.settings == {"kind": "labels", "labels": ["a", "b", "c"]}
    other = _jsonl(tmp_path / "other.jsonl", {"label": "a"})
    with pytest.raises(UsageError, match="no kind 'colour'"):
        _dataset(other, "native", options={"kind": "colour"})


def test_table_cells_contain_lists_as_json(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_text('id,group,query,labels\n1,a,tents,"[""x"", ""y""]"\n2,b,boots,[x\n', encoding="utf-8")
    assert _refusals(source, "native") == [("rows.csv, line 3", "field 'labels': is not JSON")]
    dataset = _dataset(source, "native", allow_rejects=True)
    assert dataset.records("train")[0]["labels"] == ["x", "y"]


def test_row_numbers_continue_over_files_of_one_split(tmp_path: Path) -> None:
    for number in range(2):
        rows = f"text,label\nmy card {number},card\nthe rate {number},rate\n"
        (tmp_path / f"train-0000{number}-of-00002.csv").write_text(rows, encoding="utf-8")
    rows = [row.data for row in task.formats["csv"].read(tmp_path, {}) if isinstance(row, SourceRow)]
    assert [row["id"] for row in rows] == ["train-1", "train-2", "train-3", "train-4"]


def test_label_lists_have_no_out_of_scope_label(tmp_path: Path) -> None:
    source = _jsonl(tmp_path / "rows.jsonl", {"labels": ["a"]}, {"labels": ["b"]})
    with pytest.raises(UsageError, match="no out-of-scope label"):
        _dataset(source, "native", options={"out_of_scope": "a"})


def test_a_single_label_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least two are required"):
        _dataset(_jsonl(tmp_path / "rows.jsonl", {"label": "a"}, {"label": "a"}), "native")


def test_an_out_of_scope_label_of_training_rows_is_added_to_the_list(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n", encoding="utf-8")
    source = _jsonl(tmp_path / "rows.jsonl", {"label": "a"}, {"label": "elsewhere"})
    options = {"labels": str(tmp_path / "labels.txt"), "out_of_scope": "elsewhere"}
    settings = _dataset(source, "native", options=options).settings or {}
    assert settings["labels"] == ["a", "b", "elsewhere"]


def _clinc(path: Path, **more: Any) -> Path:
    parts = {
        "oos_val": [["how tall is the tower", "oos"]],
        "val": [["pay my bill please", "pay_bill"]],
        "train": [["pay the bill", "pay_bill"], ["roll a die", "roll_dice"]],
        "oos_train": [["who invented tea", "oos"]],
        "test": [["settle my bill", "pay_bill"]],
        "oos_test": [["is mars red", "oos"]],
    }
    path.write_text(json.dumps({**parts, **more}), encoding="utf-8")
    return path


def test_clinc150_has_out_of_scope_rows_in_every_split(tmp_path: Path) -> None:
    dataset = _dataset(_clinc(tmp_path / "data_full.json"), "clinc150")
    labels = {split: sorted(row["label"] for row in dataset.records(split)) for split in ("train", "validation")}
    assert labels == {"train": ["oos", "pay_bill", "roll_dice"], "validation": ["oos", "pay_bill"]}
    assert {row["id"] for row in dataset.records("test")} == {"test-1", "oos_test-1"}
    assert dataset.settings == {"kind": "label", "labels": ["oos", "pay_bill", "roll_dice"], "out_of_scope": "oos"}


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        ('{"extra": [["a", "b"]]}', "'extra' is not a list of a split"),
        ("[1]", "not an object of splits"),
        ("{", "JSON"),
    ],
)
def test_a_file_that_is_not_clinc150_is_an_error(tmp_path: Path, content: str, reported: str) -> None:
    source = tmp_path / "data.json"
    source.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=reported):
        _dataset(source, "clinc150")


def test_a_malformed_clinc150_row_is_rejected_with_its_position(tmp_path: Path) -> None:
    source = _clinc(tmp_path / "data_full.json", test=[["a", "b", "c"]])
    assert _refusals(source, "clinc150") == [("data_full.json, test row 1", "is not a pair of text and intent")]
