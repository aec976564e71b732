"""`data export`: the queries and judgments of a split as files for other verbs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from searchlora.data.building import build
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.data.export import export_split
from searchlora.errors import DataError, UsageError
from searchlora.eval.formats import read_qrels, read_topics
from searchlora.eval.judgments.card import JudgmentsCard, read_card, write_card
from searchlora.systems.pipeline import with_history
from searchlora.task import load_task
from tests.factories import write_jsonl
from tests.tasks.rag_answer.made import usual_rows


def write_pairs(path: Path, *, with_documents: bool = True) -> Path:
    rows = [
        {
            "id": f"q{query} d{grade}" if with_documents else f"q{query}-{grade}",
            "group": f"q{query}",
            "query": f"tent {query}",
            "passage": f"passage {query} {grade}",
            "grade": grade,
        }
        for query in range(20)
        for grade in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def graded(tmp_path: Path) -> Dataset:
    build("judgment", write_pairs(tmp_path / "pairs.jsonl"), format="native", out=tmp_path / "data")
    return load_dataset(tmp_path / "data")


def test_graded_pairs_become_topics_and_qrels(cli, graded: Dataset, tmp_path: Path) -> None:
    called = cli("data", "export", graded.folder, "--split", "test", "--out", tmp_path / "out")
    assert called.code == 0, called.err
    records = graded.records("test")
    topics, qrels = read_topics(tmp_path / "out" / "topics.jsonl"), read_qrels(tmp_path / "out" / "qrels.txt")
    assert topics == {record["group"]: {"query": record["query"]} for record in records}
    assert qrels == {topic: {f"d{grade}": grade for grade in range(4)} for topic in topics}
    assert f"{len(topics)} topics, {len(records)} judgments" in called.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"topics.jsonl", "qrels.txt"}


def test_judgments_of_a_collection_keep_their_card(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("pairs.csv", "corpus.jsonl", "qrels.txt")}
    lines = [f"r{number},tents {number},tent {number}\n" for number in range(30)]
    files["pairs.csv"].write_text("id,query,rewrite\n" + "".join(lines), encoding="utf-8")
    files["corpus.jsonl"].write_text('{"id": "d1", "text": "tent"}\n', encoding="utf-8")
    files["qrels.txt"].write_text("".join(f"r{number} 0 d1 2\n" for number in range(29)), encoding="utf-8")
    write_card(files["qrels.txt"], JudgmentsCard("llm", "2026-01-01T00:00:00Z", judge="shop-judge@1"))
    build(
        "rewriting",
        files["pairs.csv"],
        format="pairs",
        out=tmp_path / "data",
        corpus=files["corpus.jsonl"],
        qrels=files["qrels.txt"],
    )
    dataset = load_dataset(tmp_path / "data")
    done = export_split(dataset, load_task("rewriting"), "train", tmp_path / "out")
    ids = {record["id"] for record in dataset.records("train")}
    assert read_qrels(tmp_path / "out" / "qrels.txt") == {id_: {"d1": 2} for id_ in ids - {"r29"}}
    assert read_topics(tmp_path / "out" / "topics.jsonl").keys() == ids - {"r29"}
    assert (done.topics, done.unjudged) == (len(ids - {"r29"}), int("r29" in ids))
    card = read_card(tmp_path / "out" / "qrels.txt")
    assert card is not None and (card.source, card.judge) == ("llm", "shop-judge@1")


def test_records_without_judgments_are_refused_and_nothing_is_written(refused, tmp_path: Path) -> None:
    build(
        "judgment",
        write_pairs(tmp_path / "pairs.jsonl", with_documents=False),
        format="native",
        out=tmp_path / "data",
    )
    complaint = refused("data", "export", tmp_path / "data", "--out", tmp_path / "out")
    assert "no judgments of documents" in complaint
    assert not (tmp_path / "out").exists()


def test_an_unknown_split_and_a_folder_in_use_are_refused(graded: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no split 'dev'"):
        export_split(graded, load_task("judgment"), "dev", tmp_path / "out")
    export_split(graded, load_task("judgment"), "test", tmp_path / "out")
    with pytest.raises(DataError, match="already exists"):
        export_split(graded, load_task("judgment"), "test", tmp_path / "out")


def test_mtrag_is_a_source_of_conversations_whose_passages_are_relevant(tmp_path: Path) -> None:
    rows = usual_rows()
    source = write_jsonl(tmp_path / "reference.jsonl", rows)
    build("rewriting", source, format="mtrag", out=tmp_path / "data", split_ratios=(1.0, 0.0, 0.0))
    dataset = load_dataset(tmp_path / "data")
    asked = {row["task_id"]: row for row in rows if row["contexts"]}
    assert {record["id"] for record in dataset.records("train")} == set(asked)
    assert dataset.card.report["counts"]["questions without passages left out"] == len(rows) - len(asked)
    documents = {document.id: document.text for document in dataset.documents() or []}
    assert documents == {each["document_id"]: each["text"] for row in rows for each in row["contexts"]}
    judged = {topic: {each["document_id"]: 1 for each in row["contexts"]} for topic, row in asked.items()}
    assert dataset.qrels() == judged

    export_split(dataset, load_task("rewriting"), "train", tmp_path / "out")
    for topic, fields in read_topics(tmp_path / "out" / "topics.jsonl").items():
        *before, last = asked[topic]["input"]
        assert fields["query"] == last["text"]
        search = with_history({"id": topic, **fields}, "here")
        assert [turn["text"] for turn in search["history"]] == [turn["text"] for turn in before]
