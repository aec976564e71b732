"""SQuAD and FAQ readers: contents of rows, and rejected rows."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.readers import squad
from searchlora.data.formats import tables
from searchlora.data.formats.common import pair_id
from searchlora.errors import DataError
from searchlora.records import RejectedRow, SourceRow

CONTEXT = "The tent weighs two kilograms. It was made in Wales."


def _squad(path: Path, *questions: dict[str, Any]) -> Path:
    data = {"version": "v2.0", "data": [{"title": "Dome tent", "paragraphs": [{"context": CONTEXT, "qas": questions}]}]}
    text = json.dumps(data).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def _question(answers: list[tuple[str, int]], **more: Any) -> dict[str, Any]:
    given = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": "q1", "question": " What does it weigh? ", "answers": given, **more}


@pytest.mark.parametrize("name", ["dev.json", "dev.json.gz"])
def test_a_question_has_its_paragraph_and_distinct_answers(tmp_path: Path, name: str) -> None:
    at = CONTEXT.index("two")
    question = _question([("two kilograms", at), ("two kilograms", at), ("two", at)])
    (row,) = squad.read_squad(_squad(tmp_path / name, question))
    assert isinstance(row, SourceRow)
    assert row.data == {
        "id": "q1",
        "article": "Dome tent",
        "paragraph": "Dome_tent_1",
        "context": CONTEXT,
        "question": "What does it weigh?",
        "answers": [{"text": "two kilograms", "start": at}, {"text": "two", "start": at}],
        "impossible": False,
        "split": None,
    }
    assert row.where == f"{name}, article 1, paragraph 1, question 1"


def test_an_impossible_question_has_no_answers(tmp_path: Path) -> None:
    question = _question([], is_impossible=True, plausible_answers=[{"text": "two", "answer_start": 16}])
    (row,) = squad.read_squad(_squad(tmp_path / "dev.json", question))
    assert isinstance(row, SourceRow)
    assert (row.data["impossible"], row.data["answers"]) == (True, [])


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (_question([("two kilograms", 3)]), "none of them is in the context"),
        (_question([]), "none of them is in the context"),
        ({"id": 3, "question": "?"}, "is not a question"),
    ],
)
def test_a_malformed_question_is_rejected_and_reading_continues(
    tmp_path: Path, question: dict[str, Any], reason: str
) -> None:
    sound = _question([("Wales", CONTEXT.index("Wales"))])
    bad, good = squad.read_squad(_squad(tmp_path / "dev.json", question, sound))
    assert isinstance(bad, RejectedRow)
    assert reason in bad.reason
    assert isinstance(good, SourceRow)


def test_a_file_of_another_format_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(DataError, match="not a SQuAD file"):
        next(squad.read_squad(path))


@pytest.mark.slow
def test_the_published_development_set_is_read(real_data: Path) -> None:
    rows = [
        row.data
        for row in squad.read_squad(real_data / "squad" / "squaddev_v1.1.json.gz")
        if isinstance(row, SourceRow)
    ]
    assert len(rows) == 10_565
    assert len({row["article"] for row in rows}) == 48
    assert len({row["paragraph"] for row in rows}) == 2067
    assert all(
        row["context"][answer["start"] :].startswith(answer["text"]) for row in rows for answer in row["answers"]
    )


def test_faq_columns_can_be_renamed(tmp_path: Path) -> None:
    path = tmp_path / "help.csv"
    path.write_text("q,a,part\nHow to return?,Send it back.,returns\nWhere are you?,In Wales.,\n", encoding="utf-8")
    rows = list(tables.read_faq(path, {"question": "q", "answer": "a", "section": "part"}))
    assert [row.data for row in rows] == [
        {
            "id": pair_id("How to return?"),
            "group": "returns",
            "section": "returns",
            "question": "How to return?",
            "answer": "Send it back.",
            "split": None,
        },
        {
            "id": pair_id("Where are you?"),
            "group": "where are you",
            "section": None,
            "question": "Where are you?",
            "answer": "In Wales.",
            "split": None,
        },
    ]


def test_a_pair_without_an_answer_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "help.jsonl"
    path.write_text('{"question": "How?", "answer": " "}\n{"id": 7, "question": "Where?", "answer": "Here."}\n')
    bad, good = tables.read_faq(path, {})
    assert isinstance(bad, RejectedRow)
    assert "field 'answer'" in bad.reason
    assert isinstance(good, SourceRow)
    assert good.data["id"] == "7"


def test_the_perl_faq_has_its_sections(real_data: Path) -> None:
    rows = [
        row.data for row in tables.read_faq(real_data / "perlfaq" / "perlfaq.jsonl", {}) if isinstance(row, SourceRow)
    ]
    assert len(rows) == 305
    assert len({row["group"] for row in rows}) == 9
    assert len({row["id"] for row in rows}) == 305
