"""Opening a dataset folder, and detection of changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from searchlora.data.building import build
from searchlora.data.collection import read_documents, read_judgments, write_collection
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.errors import DataError, UsageError
from searchlora.eval.text_identity import fingerprint
from searchlora.records import Collection, Document, Judgment
from searchlora.tasks.rewriting import task


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    source = tmp_path / "rows.csv"
    lines = [f"r{number},g{number},query {number},better {number}" for number in range(60)]
    source.write_text("\n".join(["id,group,query,rewrite", *lines]))
    build(task, source, format="native", out=tmp_path / "data")
    return load_dataset(tmp_path / "data")


def test_records_are_read_back(dataset: Dataset) -> None:
    found = [record["id"] for split in ("train", "validation", "test") for record in dataset.records(split)]
    assert sorted(found) == sorted(f"r{number}" for number in range(60))
    assert list(dataset.iter_records("test")) == dataset.records("test")
    assert dataset.documents() is None
    assert dataset.qrels() is None
    with pytest.raises(UsageError, match="no split 'dev'"):
        dataset.records("dev")


def test_a_changed_or_missing_file_is_named(dataset: Dataset) -> None:
    dataset.verify()
    path = dataset.folder / "test.jsonl"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(DataError, match=r"test\.jsonl: was changed"):
        dataset.verify()
    path.unlink()
    with pytest.raises(DataError, match=r"test\.jsonl: the file is missing"):
        dataset.verify()


def test_a_file_that_is_not_on_the_card_is_refused(dataset: Dataset) -> None:
    extra = dataset.folder / "corpus.jsonl"
    extra.write_text('{"id": "d1", "text": "a tent"}\n')
    with pytest.raises(DataError, match=r"corpus\.jsonl: the file is not on the card"):
        dataset.verify()
    extra.unlink()
    card = json.loads((dataset.folder / "dataset.json").read_text())
    del card["files"]["test.jsonl"]
    (dataset.folder / "dataset.json").write_text(json.dumps(card))
    with pytest.raises(DataError, match=r"test\.jsonl: is not on the card"):
        load_dataset(dataset.folder).records("test")


@pytest.mark.parametrize("changed", [{"query": 7}, {"id": None}, {"rewrite": ["x"]}, {"query": None}])
def test_a_record_that_the_task_cannot_read_is_refused_although_its_hash_is_that_of_the_card(
    dataset: Dataset, changed: dict[str, object]
) -> None:
    file, card = dataset.folder / "test.jsonl", json.loads((dataset.folder / "dataset.json").read_text())
    first, *rest = dataset.records("test")
    file.write_text("".join(json.dumps(row) + "\n" for row in ({**first, **changed}, *rest)))
    card["files"]["test.jsonl"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (dataset.folder / "dataset.json").write_text(json.dumps(card))
    opened = load_dataset(dataset.folder, task)
    opened.verify()
    with pytest.raises(DataError, match=r"test\.jsonl, line 1: is not a record of the task 'rewriting'"):
        opened.records("test")
    assert len(opened.records("train")) > 1


def test_a_folder_that_is_not_a_dataset_is_an_error(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(DataError, match="is not a dataset"):
        load_dataset(tmp_path)
    card = dataset.folder / "dataset.json"
    values = json.loads(card.read_text())
    card.write_text(json.dumps({**values, "schema_version": 99}))
    with pytest.raises(DataError, match="schema version 99"):
        load_dataset(dataset.folder)
    card.write_text(card.read_text()[:50])
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset(dataset.folder)
    card.write_text("{}")
    with pytest.raises(DataError, match="not a dataset card"):
        load_dataset(dataset.folder)


def _collection(*documents: Document) -> Collection:
    judged = [Judgment("t1", "d1", 2), Judgment("t1", "elsewhere", 0), Judgment("t2", "d1", 1)]
    return Collection(documents, judged)


def test_collection_files_keep_judgments_and_documents(tmp_path: Path) -> None:
    documents = (Document("d1", "a\ttext\nof two lines", "title"), Document("d2", "ü"))
    counts, judged = write_collection(_collection(*documents), tmp_path, {fingerprint("t1")})
    others = {"judgments of other topics": 1, "relevant from grade": 1}
    assert counts == {"documents": 2, "judgments": 2, "judged documents missing": 1, **others}
    assert judged == {fingerprint("t1")}
    assert tuple(read_documents(tmp_path / "corpus.jsonl")) == documents
    (tmp_path / "null.jsonl").write_text('{"id": "d1", "title": null, "text": "x"}', encoding="utf-8")
    assert list(read_documents(tmp_path / "null.jsonl")) == [Document("d1", "x")]
    assert list(read_judgments(tmp_path / "qrels.txt")) == [Judgment("t1", "d1", 2), Judgment("t1", "elsewhere", 0)]


@pytest.mark.parametrize(
    ("documents", "reported"),
    [
        ((Document("d1", "a"), Document("d1", "b")), "occurs twice"),
        ((Document("d 1", "a"),), "cannot be used in a TREC file"),
    ],
)
def test_a_document_id_must_be_usable(tmp_path: Path, documents: tuple[Document, ...], reported: str) -> None:
    with pytest.raises(DataError, match=reported):
        write_collection(_collection(*documents), tmp_path, set())


def test_an_unreadable_collection_names_the_line(tmp_path: Path) -> None:
    qrels = tmp_path / "qrels.txt"
    qrels.write_text("t1 0 d1 1\nt1 0 d1\n")
    with pytest.raises(DataError, match="line 2"):
        _exhaust(read_judgments(qrels))
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": "d1", "text": "a"}\n{"id": "d2"}\n')
    with pytest.raises(DataError, match="line 2: the document field 'text' is missing"):
        _exhaust(read_documents(corpus))


def _exhaust(rows: Iterator[object]) -> None:
    for _ in rows:
        pass
