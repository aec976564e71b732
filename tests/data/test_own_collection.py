"""A corpus and judgments of one's own, for a source that has none."""

from __future__ import annotations

import json

import pytest

from searchlora.data import build, load_dataset
from searchlora.errors import DataError, UsageError
from searchlora.task import load_task


@pytest.fixture
def source(tmp_path):
    rows = [{"id": f"r{n}", "group": str(n), "query": f"kicks {n}", "rewrite": f"shoes {n}"} for n in range(20)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_the_dataset_can_be_evaluated_by_retrieval(source, tmp_path):
    corpus = written(tmp_path / "products.csv", "id,title,text\np1,Shoe,a running shoe\np2,Tent,green\n")
    qrels = written(tmp_path / "q.txt", "r1 0 p1 3\nr2 0 p2 1\nelse 0 p1 1\n")
    out = tmp_path / "data"
    card = build(load_task("rewriting"), source, format="native", out=out, corpus=corpus, qrels=qrels)
    dataset = load_dataset(out)
    assert [document.id for document in dataset.documents()] == ["p1", "p2"]
    assert dataset.qrels() == {"r1": {"p1": 3}, "r2": {"p2": 1}}
    assert card.collection["judgments"] == 2


def test_one_without_the_other_is_refused(source, tmp_path):
    qrels = written(tmp_path / "q.txt", "r1 0 p1 3\n")
    with pytest.raises(UsageError, match="judgments want a corpus"):
        build(load_task("rewriting"), source, format="native", out=tmp_path / "data", qrels=qrels)


def test_a_line_that_is_no_judgment_is_named_and_nothing_is_left(source, tmp_path):
    corpus = written(tmp_path / "products.csv", "id,text\np1,a running shoe\n")
    qrels = written(tmp_path / "q.txt", "r1 0 p1 3\nr2 p1 3\n")
    with pytest.raises(DataError, match=r"q\.txt, line 2"):
        build(load_task("rewriting"), source, format="native", out=tmp_path / "data", corpus=corpus, qrels=qrels)
    assert not (tmp_path / "data").exists()
