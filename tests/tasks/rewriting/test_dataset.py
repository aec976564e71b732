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
    build(task, source, format=format, out=out, **{"shares": ALL_IN_TRAIN, **options})
    return load_dataset(out)


def _records(source: Path, format: str, out: Path, **options: Any) -> dict[str, Record]:
    return {record["id"]: record for record in _dataset(source, format, out, **options).records("train")}


def _said(record: Record) -> list[tuple[str, str]]:
    return [(turn["role"], turn["text"]) for turn in record["history"]]


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
    assert (last["group"], last["turn"], last["query"], last["rewrite"]) == (
        "Ada",
        3,
        "Anything else?",
        "Anything else about Ada?",
    )
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


# CAsT


def test_cast_2019_takes_the_rewrites_beside_the_topics(tmp_path: Path) -> None:
    turns = [{"number": 1, "raw_utterance": "What is a tent? "}, {"number": 2, "raw_utterance": "Is it heavy?"}]
    source = _write(tmp_path / "evaluation_topics_v1.0.json", [{"number": 31, "turn": turns}])
    with pytest.raises(DataError, match="--option rewrites=FILE"):
        _records(source, "cast2019", tmp_path / "out")
    resolved = tmp_path / "evaluation_topics_annotated_resolved_v1.0.tsv"
    resolved.write_bytes(b"31_1\tWhat is a tent?\r\n31_2\tIs a tent heavy?\r\n")
    records = _records(source, "cast2019", tmp_path / "out")
    assert records["31_2"] == {
        "id": "31_2",
        "group": "topic 31",
        "query": "Is it heavy?",
        "history": [{"role": "user", "text": "What is a tent?"}],
        "rewrite": "Is a tent heavy?",
        "turn": 2,
        "needs_rewrite": True,
    }
    assert records["31_1"]["needs_rewrite"] is False
    elsewhere = tmp_path / "elsewhere.tsv"
    elsewhere.write_bytes(b"31_1\tWhat is a tent?\n")
    with pytest.raises(RejectedRows, match="row 1, turn 2: there is no human rewrite of 31_2"):
        _records(source, "cast2019", tmp_path / "other", options={"rewrites": str(elsewhere)})
    elsewhere.write_bytes(b"no tab here\n")
    with pytest.raises(DataError, match="line 1: there is no tab"):
        _records(source, "cast2019", tmp_path / "other", options={"rewrites": str(elsewhere)})


def _turn(number: object, text: str, **rest: str) -> dict[str, Any]:
    return {"number": number, "utterance": text, "manual_rewritten_utterance": f"{text} of tents", **rest}


def test_cast_2021_has_the_systems_passages_in_the_history(tmp_path: Path) -> None:
    turns = [_turn(1, "What kinds?", passage="Domes."), _turn(2, "Which is best?", passage="None.")]
    for turn in turns:
        turn["raw_utterance"] = turn.pop("utterance")
    source = _write(tmp_path / "2021_manual_evaluation_topics_v1.0.json", [{"number": 106, "turn": turns}])
    records = _records(source, "cast2021", tmp_path / "out")
    assert _said(records["106_2"]) == [("user", "What kinds?"), ("assistant", "Domes.")]
    assert records["106_2"]["rewrite"] == "Which is best? of tents"


def _reply(number: str, parent: str, text: str) -> dict[str, str]:
    return {"number": number, "parent": parent, "participant": "System", "response": text}


def test_cast_2022_tree_and_flattened_give_the_same_records(tmp_path: Path) -> None:
    tree = [
        _turn("1-1", "What kinds?", participant="User"),
        _reply("1-2", "1-1", "Domes."),
        _turn("1-3", "Which is best?", participant="User", parent="1-2"),
        _reply("1-4", "1-3", "None."),
        _turn("2-1", "And cheap?", participant="User", parent="1-2"),
    ]
    start, best, cheap = _turn("1-1", "What kinds?"), _turn("1-3", "Which is best?"), _turn("2-1", "And cheap?")
    branches = [
        [{**start, "response": "Domes."}, {**best, "response": "None."}],
        [{**start, "response": "Domes."}, cheap],
    ]
    one = _write(tmp_path / "2022_evaluation_topics_tree_v1.0.json", [{"number": 132, "turn": tree}])
    two = _write(
        tmp_path / "2022_evaluation_topics_flattened_duplicated_v1.0.json",
        [{"number": 132, "turn": turns} for turns in branches],
    )
    records = _records(one, "cast2022", tmp_path / "tree")
    assert records == _records(two, "cast2022", tmp_path / "flat")
    assert sorted(records) == ["132_1-1", "132_1-3", "132_2-1"]
    assert _said(records["132_2-1"]) == [("user", "What kinds?"), ("assistant", "Domes.")]
    assert records["132_2-1"]["turn"] == 2


def test_a_cast_turn_without_a_human_rewrite_is_rejected(tmp_path: Path) -> None:
    turn = {"number": 1, "raw_utterance": "What kinds?", "automatic_rewritten_utterance": "kinds"}
    source = _write(tmp_path / "2020_automatic.json", [{"number": 81, "turn": [turn]}, {"number": 82, "turn": 7}])
    with pytest.raises(RejectedRows) as raised:
        _records(source, "cast2020", tmp_path / "out")
    assert "row 1, turn 1: field 'manual_rewritten_utterance' is missing" in str(raised.value)
    assert "row 2: is not a topic of TREC CAsT" in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "file", "turns"),
    [
        ("cast2019", "2019/data/evaluation/evaluation_topics_v1.0.json", 479),
        ("cast2020", "2020/2020_manual_evaluation_topics_v1.0.json", 216),
    ],
)
def test_published_cast_topics_are_read(real_data: Path, tmp_path: Path, format: str, file: str, turns: int) -> None:
    assert len(_records(real_data / "cast" / file, format, tmp_path / "out")) == turns


# QReCC, pairs, native, shop, query log


def test_qrecc_records(tmp_path: Path) -> None:
    row = {
        "Conversation_no": 12,
        "Turn_no": 3,
        "Context": ["What kinds?", "Domes.", "Which is best?", ""],
        "Question": "And cheap?",
        "Rewrite": "And cheap tents?",
        "Answer": "x",
        "Answer_URL": "y",
    }
    records = _records(_write(tmp_path / "qrecc_train.json", [row]), "qrecc", tmp_path / "out")
    assert _said(records["12_3"]) == [("user", "What kinds?"), ("assistant", "Domes."), ("user", "Which is best?")]
    assert (records["12_3"]["group"], records["12_3"]["turn"]) == ("conversation 12", 3)


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
