"""TREC CAsT and QReCC as records of the task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from searchlora.errors import DataError, RejectedRows
from tests.tasks.rewriting.test_dataset import _records, _said, _write


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
