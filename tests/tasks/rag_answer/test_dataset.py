"""Source formats of the rag_answer task: questions, passages and answers of records."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.data.formats import formats_of
from searchlora.errors import RejectedRows, UsageError
from searchlora.outputs import CitedAnswer
from searchlora.records import Record, RejectedRow, SourceReport, SourceRow
from searchlora.tasks.rag_answer import task
from searchlora.tasks.rag_answer.citations import supported
from searchlora.tasks.rag_answer.distractors import WITHOUT_GOLD
from tests.factories import write_jsonl
from tests.tasks.rag_answer.made import SUBJECTS, mtrag_row, usual_rows


def _records(format: str, source: Path, **options: str) -> dict[str, Record]:
    rows = list(formats_of(task)[format].read(source, options))
    assert not [row for row in rows if isinstance(row, RejectedRow)]
    return {row.data["id"]: row.data for row in rows if isinstance(row, SourceRow)}


def _read(folder: Path, rows: list[dict[str, Any]], **options: str) -> list[Any]:
    return list(formats_of(task)["mtrag"].read(write_jsonl(folder / "reference.jsonl", rows), options))


def _gold_numbers(record: Record) -> list[int]:
    return [place for place, each in enumerate(record["passages"], start=1) if each["id"] in record["gold"]]


# MT-RAG


def test_citations_follow_the_numbering_of_passages(tmp_path: Path) -> None:
    records = _records("mtrag", write_jsonl(tmp_path / "reference.jsonl", usual_rows()))
    record = records["conv0<::>2"]
    (gold,) = _gold_numbers(record)
    assert record["answer"] == f"A dome tent weighs 2 kilograms and stands without pegs on rock [{gold}]."
    assert record["reference"] == SUBJECTS["tents"]
    assert [turn["role"] for turn in record["history"]] == ["user", "assistant"]
    assert (record["answerable"], record["kind"], record["source"]) == (True, "answerable", "shop")


def test_number_and_order_of_passages_do_not_reveal_answerability(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "reference.jsonl", usual_rows())
    records = _records("mtrag", source, passages="4", missing="1")
    assert {len(record["passages"]) for record in records.values()} == {4}
    places = {place for record in records.values() for place in _gold_numbers(record)}
    assert len(places) > 2
    other = _records("mtrag", source, passages="4", missing="1", shuffle="7")
    assert other.keys() == records.keys()
    assert other != records
    assert _records("mtrag", source, passages="4", missing="1") == records


def test_unanswerable_rows_contain_no_answering_passage(tmp_path: Path) -> None:
    records = _records("mtrag", write_jsonl(tmp_path / "reference.jsonl", usual_rows()), missing="1")
    assert Counter(record["kind"] for record in records.values()) == {
        "answerable": 10,
        "partly answerable": 1,
        WITHOUT_GOLD: 11,
        "unanswerable": 2,
    }
    for record in records.values():
        if not record["answerable"]:
            assert record["gold"] == []
            assert "answer" not in record
            assert task.target(record) == task.settings["abstention"]
        if record["kind"] == WITHOUT_GOLD:
            answered = records[record["id"].removesuffix("_without_gold")]
            shown = {passage["text"] for passage in record["passages"]}
            assert not shown & {each["text"] for each in answered["passages"] if each["id"] in answered["gold"]}
            assert record["group"] == answered["group"]


def test_distractors_do_not_support_the_answer_and_come_from_other_groups(tmp_path: Path) -> None:
    twin = {"document_id": "twin-0-9", "title": "", "text": "Dome tents, 2 kilograms of weight, stand on rock."}
    cousin = {"document_id": "cousin-0-9", "title": "", "text": "Dome tents and pegs on rock: nothing to know."}
    rows = [
        *usual_rows(),
        mtrag_row(30, "socks", contexts=[twin]),
        mtrag_row(31, "maps", contexts=[cousin], first="Tell me about tents 0"),
    ]
    records = _records("mtrag", write_jsonl(tmp_path / "reference.jsonl", rows), passages="9")
    shown = [passage["id"] for passage in records["conv0<::>2"]["passages"]]
    assert records["conv31<::>2"]["group"] == records["conv0<::>2"]["group"]
    assert "twin-0-9" not in shown
    assert "cousin-0-9" not in shown
    unanswerable = _records("mtrag", tmp_path / "reference.jsonl", passages="4")["conv20<::>2"]
    assert {"twin-0-9", "cousin-0-9"} <= {passage["id"] for passage in unanswerable["passages"]}


def test_groups_are_connected_through_first_turns_and_documents(tmp_path: Path) -> None:
    rows = [
        *usual_rows(),
        mtrag_row(30, "socks", "UNANSWERABLE", first="tell me about TENTS 0!"),
        mtrag_row(31, "maps", document="doc1"),
    ]
    records = _records("mtrag", write_jsonl(tmp_path / "reference.jsonl", rows))
    groups = {id_: record["group"] for id_, record in records.items()}
    assert groups["conv30<::>2"] == groups["conv0<::>2"]
    assert groups["conv31<::>2"] == groups["conv1<::>2"]
    assert groups["conv23<::>2"] == groups["conv3<::>2"]
    assert len(set(groups.values())) == len(SUBJECTS) + 2


def test_sections_of_a_wikipedia_article_are_one_document(tmp_path: Path) -> None:
    rows = [
        *usual_rows(),
        mtrag_row(40, "socks", document="806502664_349-964"),
        mtrag_row(41, "maps", document="806502664_5333-5957"),
        mtrag_row(42, "mats", document="806502665_349-964"),
    ]
    records = _records("mtrag", write_jsonl(tmp_path / "reference.jsonl", rows))
    assert records["conv40<::>2"]["group"] == records["conv41<::>2"]["group"] != records["conv42<::>2"]["group"]


def test_the_card_states_rules_and_counts(tmp_path: Path) -> None:
    rows = _read(tmp_path, usual_rows(), missing="1")
    (report,) = [row for row in rows if isinstance(row, SourceReport)]
    assert report.counts["underspecified questions left out"] == 1
    assert report.counts[f"rows '{WITHOUT_GOLD}'"] == 11
    assert any("100% of the answerable rows" in rule for rule in report.rules)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (mtrag_row(1, "tents", "PERHAPS"), "unknown value"),
        (mtrag_row(1, "tents", contexts=[]), "has no contexts"),
        (mtrag_row(1, "tents", "UNANSWERABLE", contexts=[{"document_id": "d-0-1", "text": "x"}]), "has contexts"),
        ({**mtrag_row(1, "tents"), "input": [{"text": "no speaker"}]}, "field 'input'"),
        ({**mtrag_row(1, "tents"), "contexts": None}, "field 'contexts'"),
        ({**mtrag_row(1, "tents"), "contexts": [{"text": "x"}]}, "field 'contexts'"),
        ({**mtrag_row(1, "tents"), "targets": [{}]}, "field 'targets'"),
    ],
)
def test_a_contradictory_or_malformed_row_is_rejected(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    rows = _read(tmp_path, [row])
    (refused,) = [row for row in rows if isinstance(row, RejectedRow)]
    assert reason in refused.reason and "line 1" in refused.where


def test_too_few_passages_are_reported(tmp_path: Path) -> None:
    rows = _read(tmp_path, usual_rows(), passages="40")
    assert all("fewer than 40" in row.reason for row in rows if isinstance(row, RejectedRow))
    assert not [row for row in rows if isinstance(row, SourceRow)]


@pytest.mark.parametrize(
    "options", [{"passages": "0"}, {"missing": "2"}, {"gold": "6"}, {"citations": "perhaps"}, {"words": "9"}]
)
def test_an_invalid_option_is_a_usage_error(tmp_path: Path, options: dict[str, str]) -> None:
    source = write_jsonl(tmp_path / "reference.jsonl", usual_rows())
    with pytest.raises(UsageError):
        build(task, source, format="mtrag", out=tmp_path / "out", options=options)


@pytest.mark.slow
def test_published_mtrag_tasks_are_read(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "mtrag" / "reference.jsonl"
    build(task, source, format="mtrag", out=tmp_path / "out", options={"missing": "0.3"})
    dataset = load_dataset(tmp_path / "out")
    assert dataset.card.leaks["found"] == 0
    records = [record for split in ("train", "validation", "test") for record in dataset.records(split)]
    kinds = Counter(record["kind"] for record in records)
    assert (kinds["answerable"], kinds["partly answerable"], kinds["unanswerable"]) == (285, 47, 97)
    assert {len(record["passages"]) for record in records} == {5}
    for record in records:
        parsed = task.parse(task.target(record), record)
        assert isinstance(parsed, CitedAnswer)
        assert parsed.abstained is not record["answerable"]
        assert set(parsed.citations) <= set(_gold_numbers(record))
        distractors = [each["text"] for each in record["passages"] if each["id"] not in record["gold"]]
        if record["answerable"]:
            assert len(distractors) >= 2
            assert not supported(record["reference"], distractors)


# SQuAD, FAQ


def _squad(path: Path) -> Path:
    paragraphs = []
    for number, (subject, text) in enumerate(SUBJECTS.items()):
        answers = [{"text": text[:12], "answer_start": 0}]
        asked = {"id": f"q{number}", "question": f"What is there to know of {subject}?", "answers": answers}
        missing = {"id": f"no{number}", "question": f"Who invented {subject}?", "answers": [], "is_impossible": True}
        context = f"{text} It is sold with {number} spare parts in Leeds."
        paragraphs.append({"context": context, "qas": [asked, missing]})
    path.write_text(json.dumps({"data": [{"title": "Out doors", "paragraphs": paragraphs}]}), encoding="utf-8")
    return path


def test_squad_answers_with_the_sentence_of_the_span(tmp_path: Path) -> None:
    records = _records("squad", _squad(tmp_path / "dev.json"))
    record = records["q2"]
    (gold,) = _gold_numbers(record)
    assert record["answer"] == f"A head torch burns for 40 hours with one battery [{gold}]."
    assert record["group"] == "Out doors"
    assert {passage["id"].rpartition("_")[0] for passage in record["passages"]} == {"Out_doors"}


def test_an_impossible_question_shows_the_paragraph_that_does_not_answer_it(tmp_path: Path) -> None:
    record = _records("squad", _squad(tmp_path / "dev.json"))["no2"]
    assert not record["answerable"]
    assert "Out_doors_3" in [passage["id"] for passage in record["passages"]]


def test_other_faq_answers_are_distractors(tmp_path: Path) -> None:
    source = tmp_path / "faq.csv"
    lines = [f"part {number % 2},What of {subject}?,{text}" for number, (subject, text) in enumerate(SUBJECTS.items())]
    source.write_text("\n".join(["section,question,answer", *lines]), encoding="utf-8")
    records = list(_records("faq", source, missing="0").values())
    assert {record["group"] for record in records} == {"part 0", "part 1"}
    for record in records:
        (gold,) = _gold_numbers(record)
        assert record["passages"][gold - 1]["text"] == record["reference"]
        assert record["answer"].endswith(f" [{gold}].")
        assert record["question"] not in json.dumps(record["passages"])


def test_faq_rows_with_an_equal_question_or_answer_are_one_group_and_never_distractors(tmp_path: Path) -> None:
    rows = [
        ("How do I reset the pump?", "Hold the red button for five seconds."),
        ("how do I reset the pump", "Pull the plug and wait."),
        ("The pump does not start", "Hold the red button for five seconds."),
        *((f"What of {subject}?", text) for subject, text in SUBJECTS.items()),
    ]
    source = write_jsonl(tmp_path / "faq.jsonl", [{"question": q, "answer": a} for q, a in rows])
    records = list(_records("faq", source, missing="1").values())
    pump = [record for record in records if "pump" in record["question"].lower()]
    assert len(pump) == 6
    assert len({record["group"] for record in pump}) == 1
    asked = [record for record in pump if record["question"].lower().startswith("how do i reset")]
    for record in asked:
        shown = {each["text"] for each in record["passages"] if each["id"] not in record["gold"]}
        assert not shown & {rows[0][1], rows[1][1]}


def test_some_rows_get_a_copy_without_gold_passages_by_default(tmp_path: Path) -> None:
    lines = [f"What of {subject} {number}?,{text}" for number in range(9) for subject, text in SUBJECTS.items()]
    source = tmp_path / "faq.csv"
    source.write_text("\n".join(["question,answer", *lines]), encoding="utf-8")
    kinds = Counter(record["kind"] for record in _records("faq", source, passages="2").values())
    assert 0.1 < kinds[WITHOUT_GOLD] / kinds["answerable"] < 0.3
    assert WITHOUT_GOLD not in {record["kind"] for record in _records("faq", source, missing="0").values()}


# Native records


def _native(**change: Any) -> dict[str, Any]:
    record = {
        "id": "r1",
        "group": "g1",
        "question": "How heavy?",
        "passages": [{"id": "p1", "text": "Two kilograms."}, {"id": "p2", "text": "Leather."}],
        "answer": "Two kilograms [1].",
        "gold": ["p1"],
        "answerable": True,
    }
    return {name: value for name, value in {**record, **change}.items() if value is not None}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": "Two kilograms [3]."}, "cites passage 3, but only 1 to 2"),
        ({"answer": None}, "answer"),
        ({"gold": ["p9"]}, "'p9' is not one of the row's passages"),
        ({"answerable": False}, "gold"),
        ({"passages": [{"id": "p1", "text": "a"}, {"id": "p1", "text": "b"}]}, "two have the same id"),
    ],
)
def test_an_untrainable_record_is_rejected(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", [_native(), _native(id="r2", **change)])
    with pytest.raises(RejectedRows) as refused:
        build(task, source, format="native", out=tmp_path / "out", split_ratios=(1.0, 0.0, 0.0))
    assert reason in str(refused.value)


def test_tables_contain_lists_as_json_and_settings_are_stored(tmp_path: Path) -> None:
    row = _native()
    cells = [json.dumps(value) if not isinstance(value, str) else value for value in row.values()]
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    source = tmp_path / "rows.csv"
    source.write_text(",".join(row) + "\n" + ",".join(quoted) + "\n", encoding="utf-8")
    (tmp_path / "style.txt").write_text("Answer like a\n sailor.\n", encoding="utf-8")
    options = {"abstention": "Not here.", "style": str(tmp_path / "style.txt"), "citations": "no", "words": "12"}
    build(task, source, format="native", out=tmp_path / "out", options=options, split_ratios=(1.0, 0.0, 0.0))
    dataset = load_dataset(tmp_path / "out")
    assert dataset.records("train") == [row]
    wanted = {"abstention": "Not here.", "style": "Answer like a sailor.", "citations": False, "words": 12}
    assert dataset.settings == wanted
