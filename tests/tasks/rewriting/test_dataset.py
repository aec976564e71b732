"""Source formats of the rewriting task, with synthetic texts; published files are optional."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from searchlora.data.building import build
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.data.formats.common import pair_id
from searchlora.errors import DataError, RejectedRows
from searchlora.records import Record
from searchlora.tasks.rewriting import task

ALL_IN_TRAIN = (1.0, 0.0, 0.0)


def _write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def _dataset(source: Path, format: str, out: Path, **options: Any) -> Dataset:
    build(task, source, format=format, out=out, **{"split_ratios": ALL_IN_TRAIN, **options})
    return load_dataset(out)


def _records(source: Path, format: str, out: Path, **options: Any) -> dict[str, Record]:
    return {record["id"]: record for record in _dataset(source, format, out, **options).records("train")}


def _said(record: Record) -> list[tuple[str, str]]:
    return [(turn["role"], turn["text"]) for turn in record["history"]]


# Titles of a collection


def test_titles_are_those_that_the_whole_conversation_finds(tmp_path: Path) -> None:
    documents = tmp_path / "docs.csv"
    documents.write_text("id,title,text\n1,Ada Lovelace,a countess taught by Mary\n2,Tents,a tent\n", encoding="utf-8")
    rows = [
        {"id": "q", "query": "who taught her?", "history": [{"role": "user", "text": "Was Ada a countess?"}]},
        {"id": "own", "query": "a tent", "titles": ["Camping"]},
        {"id": "empty", "query": "a tent", "titles": []},
        {"id": "none", "query": "zebra"},
    ]
    source = _write(tmp_path / "rows.json", [{**row, "group": row["id"], "rewrite": "x"} for row in rows])
    records = _records(source, "native", tmp_path / "out", options={"titles": str(documents)})
    titles = {name: record.get("titles") for name, record in records.items()}
    assert titles == {"q": ["Ada Lovelace"], "own": ["Camping"], "empty": [], "none": None}


# CANARD


def _canard() -> list[dict[str, Any]]:
    titles = ["Ada", "Early life"]
    one, two = ["was she born in London?", "Yes, in 1815."], ["who taught her?", "I don't know."]
    rows = [
        (titles, 1, "was she born in London?", "Was Ada born in London?"),
        ([*titles, *one], 2, "who taught her?", "who taught Ada?"),
        ([*titles, *one, *two], 3, "Anything else?", "Anything else about Ada?"),
    ]
    return [
        {"History": history, "QuAC_dialog_id": "C_1", "Question": question, "Question_no": number, "Rewrite": rewrite}
        for history, number, question, rewrite in rows
    ]


def test_canard_history_begins_with_the_human_rewrite(tmp_path: Path) -> None:
    records = _records(_write(tmp_path / "dev.json", _canard()), "canard", tmp_path / "out")
    assert _said(records["C_1_q1"]) == []
    assert _said(records["C_1_q3"]) == [
        ("user", "Was Ada born in London?"),
        ("assistant", "Yes, in 1815."),
        ("user", "who taught her?"),
        ("assistant", "I don't know."),
    ]
    last = records["C_1_q3"]
    assert (last["group"], last["turn"]) == ("Ada", 3)
    assert (last["query"], last["rewrite"]) == ("Anything else?", "Anything else about Ada?")
    assert "Early life" not in json.dumps(last)


def test_canard_answers_are_the_collection(tmp_path: Path) -> None:
    dataset = _dataset(_write(tmp_path / "dev.json", _canard()), "canard", tmp_path / "out")
    documents = dataset.documents()
    assert documents is not None
    assert [(document.title, document.text) for document in documents] == [("Ada", "Yes, in 1815.")]
    assert dataset.qrels() == {"C_1_q1": {documents[0].id: 1}}


def test_a_canard_folder_has_official_splits(tmp_path: Path) -> None:
    source = tmp_path / "canard"
    source.mkdir()
    for name, article in (("train", "Ada"), ("dev", "Bob"), ("test", "Eve")):
        rows = _canard()
        for row in rows:
            row["History"][0], row["QuAC_dialog_id"] = article, f"C_{article}"
            row["Question"] = f"{row['Question']} {article}"
            row["Rewrite"] = f"{row['Rewrite']} {article}"
        _write(source / f"{name}.json", rows)
    card = _dataset(source, "canard", tmp_path / "out").card
    assert card.official_splits
    assert card.rows == {"train": 3, "validation": 3, "test": 3}
    assert sorted(card.source["files"]) == ["dev.json", "test.json", "train.json"]


def test_a_malformed_canard_row_is_rejected(tmp_path: Path) -> None:
    rows = _canard()
    rows[1]["History"] = rows[1]["History"][:-1]
    del rows[2]["Rewrite"]
    with pytest.raises(RejectedRows) as raised:
        _dataset(_write(tmp_path / "dev.json", rows), "canard", tmp_path / "out")
    assert "dev.json, row 2: field 'History'" in str(raised.value)
    assert "dev.json, row 3: field 'Rewrite' is missing" in str(raised.value)


@pytest.mark.slow
def test_published_canard_is_read(real_data: Path, tmp_path: Path) -> None:
    """The numbers that the project states: 2,497 passages, 2,046 questions from the second turn on that have one."""
    dataset = _dataset(real_data / "canard" / "dev.json", "canard", tmp_path / "out")
    documents, qrels, records = dataset.documents(), dataset.qrels(), dataset.records("train")
    assert documents is not None and qrels is not None
    assert len(records) == 3430
    assert len(documents) == 2497
    assert sum(record["turn"] >= 2 and record["id"] in qrels for record in records) == 2046
    assert len({record["group"] for record in records}) == 442


# Pairs, native, shop


def test_pair_columns_can_be_renamed(tmp_path: Path) -> None:
    source = tmp_path / "pairs.tsv"
    source.write_text('typed\tbetter\tfamily\n"trainers"\trunning shoes\tshoes\ntent\tTent\ttents\n')
    with pytest.raises(DataError, match="there is no column 'query'"):
        _records(source, "pairs", tmp_path / "out")
    options = {"query": "typed", "rewrite": "better", "group": "family"}
    records = _records(source, "pairs", tmp_path / "out", options=options)
    assert records[pair_id("trainers")]["query"] == '"trainers"'
    assert [record["group"] for record in records.values()] == ["shoes", "tents"]
    assert [record["needs_rewrite"] for record in records.values()] == [True, False]


def test_native_tables_contain_lists_as_json(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_text(
        "id,group,query,rewrite,history,turn,protected\n"
        'a,g,q,r,"[{""role"": ""user"", ""text"": ""hi""}]",2,"[""X1""]"\n'
        "b,g,q2,r2,,,\n"
    )
    records = _records(source, "native", tmp_path / "out")
    assert records["a"]["history"] == [{"role": "user", "text": "hi"}]
    assert (records["a"]["turn"], records["a"]["protected"]) == (2, ["X1"])
    assert set(records["b"]) == {"id", "group", "query", "rewrite"}
    source.write_text("id,group,query,rewrite,turn\na,g,q,r,second\n")
    with pytest.raises(RejectedRows, match="field 'turn': is not JSON"):
        _records(source, "native", tmp_path / "other")


def test_a_shop_folder_supplies_collection_and_vocabulary(tmp_path: Path) -> None:
    source = tmp_path / "shop"
    source.mkdir()
    row = {"id": "q1", "group": "g1", "query": "kicks", "history": [], "rewrite": "running shoes"}
    _write(source / "rewriting.jsonl", row)
    _write(source / "corpus.jsonl", {"id": "p1", "title": "Shoe", "text": "for running"})
    (source / "qrels.txt").write_text("q1 0 p1 3\nelse 0 p1 1\n")
    (source / "notes.txt").write_text("stays where it is")
    with pytest.raises(DataError, match=r"there is no vocabulary\.json"):
        _dataset(source, "shop", tmp_path / "out")
    _write(source / "vocabulary.json", {"kicks": "running shoes"})
    dataset = _dataset(source, "shop", tmp_path / "out")
    assert dataset.qrels() == {"q1": {"p1": 3}}
    assert json.loads((dataset.folder / "vocabulary.json").read_text()) == {"kicks": "running shoes"}
    assert "vocabulary.json" in dataset.card.files
    assert not (dataset.folder / "notes.txt").exists()


def test_listed_words_in_the_query_are_protected(tmp_path):
    source = tmp_path / "pairs.csv"
    source.write_text("query,rewrite\nACME lamp,acme head torch\nlamps,head torch\nacmes lamp,lamp\n", encoding="utf-8")
    brands = tmp_path / "brands.txt"
    brands.write_text("Acme\nFjell Vik\n", encoding="utf-8")
    rows = list(task.formats["pairs"].read(source, {"protected": str(brands)}))
    assert [row.data.get("protected") for row in rows] == [["Acme"], None, None]


def test_an_unusable_word_list_is_an_error(tmp_path):
    source = tmp_path / "pairs.csv"
    source.write_text("query,rewrite\na,b\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"none\.txt: there is no such file"):
        list(task.formats["pairs"].read(source, {"protected": str(tmp_path / "none.txt")}))
