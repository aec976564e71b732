"""Results of pipelines as JSON, `Pipeline.load` and `Pipeline.search`."""

from __future__ import annotations

import json

import pytest

import searchlora
from searchlora.errors import DataError, PipelineError, UsageError
from searchlora.inference.engine import Completion
from searchlora.outputs import CitedAnswer, Grade, InvalidOutput, Label
from searchlora.pipelines import config
from searchlora.pipelines.config import bm25_settings
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.results import result, result_line
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.records import Document, Hit
from searchlora.task import load_task

DOCUMENTS = [Document("d1", "waterproof boots", "Boots"), Document("d2", "a green tent"), Document("d3", "tent pegs")]


def test_everything_that_stages_wrote_is_in_the_result():
    search = {"id": "q1", "query": "kicks", "history": [{"role": "user", "text": "hi"}], "hits": ["d1"]}
    executed = {
        **search,
        "query": "boots",
        "hits": [Hit("d1", 2.5), Hit("d2", 1.0)],
        "passages": [{"id": "d1", "title": "Boots", "text": "waterproof boots", "score": 2.5}],
        "grades": [{"id": "d1", "grade": 2, "expected": 1.5, "probabilities": (0.0, 0.5, 0.5), "reason": None}],
        "intent": Label("buy", (0.9, 0.1)),
        "answer": CitedAnswer("Yes [1].", (1,), False, 0.1),
        "outputs": {"rewriting": ["boots"], "judgment": [Grade(2), InvalidOutput("??", "no grade")]},
        "invalid_outputs": (("judgment", "no grade"),),
    }
    assert result(search, executed, ["a@1", "bm25"]) == {
        "id": "q1",
        "query": "boots",
        "stages": ["a@1", "bm25"],
        "input": {"query": "kicks", "history": [{"role": "user", "text": "hi"}]},
        "hits": [{"rank": 1, "document": "d1", "score": 2.5}, {"rank": 2, "document": "d2", "score": 1.0}],
        "passages": [{"id": "d1", "title": "Boots", "score": 2.5}],
        "grades": [{"id": "d1", "grade": 2, "expected": 1.5, "probabilities": [0.0, 0.5, 0.5], "reason": None}],
        "intent": {"value": "buy", "probabilities": [0.9, 0.1]},
        "answer": {
            "text": "Yes [1].",
            "citations": [1],
            "abstained": False,
            "abstention_probability": 0.1,
            "reason": None,
        },
        "invalid": {"judgment": ["no grade"]},
    }


def test_a_result_is_one_line_of_strict_json():
    assert result_line({"id": "q2", "note": "größe\n"}) == '{"id": "q2", "note": "größe\\n"}\n'
    for value in (object(), float("nan")):
        with pytest.raises(DataError, match=r"query q3: a result is not JSON"):
            result_line({"id": "q3", "x": value})


class Rewriter:
    """An engine that rewrites every query to "boots"."""

    call_size = 1

    def generate(self, requests):
        return [Completion("boots", "stop", 5, 1) for _ in requests]


def test_search_executes_one_query_with_its_fields():
    stages = [AdapterStage(load_task("rewriting"), Rewriter(), "r@3"), bm25_settings(k=1).over(DOCUMENTS)]
    found = Pipeline("two", stages).search("kicks", history=[{"role": "user", "text": "outdoor"}])
    assert (found["query"], found["stages"]) == ("boots", ["r@3", "bm25(k=1)"])
    assert [hit["document"] for hit in found["hits"]] == ["d1"]
    assert found["input"]["history"] == [{"role": "user", "text": "outdoor"}]


def test_a_pipeline_file_names_its_corpus(tmp_path, monkeypatch):
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"id": d.id, "text": d.text}) + "\n" for d in DOCUMENTS))
    (tmp_path / "product.yaml").write_text("name: product\ncorpus: corpus.jsonl\nstages: [{bm25: {k: 2}}]\n")
    monkeypatch.chdir(tmp_path)
    for pipeline in ("product", "product.yaml", tmp_path / "product.yaml"):
        found = searchlora.Pipeline.load(pipeline).search("green tent")
        assert [hit["document"] for hit in found["hits"]] == ["d2", "d3"]
    monkeypatch.chdir("/")
    assert Pipeline.load(tmp_path / "product").search("pegs")["hits"][0]["document"] == "d3"


def test_a_run_reads_the_pipeline_once_and_load_takes_what_was_read(tmp_path, monkeypatch):
    (tmp_path / "q.jsonl").write_text('{"id": "q1", "query": "green tent"}\n')
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"id": d.id, "text": d.text}) + "\n" for d in DOCUMENTS))
    real, read = config.read_bytes, []
    monkeypatch.setattr(config, "read_bytes", lambda path: read.append(path.name) or real(path))
    tag, count = searchlora.run(
        "bm25", tmp_path / "q.jsonl", tmp_path / "c.jsonl", tmp_path / "o.trec", overrides=["k=1"]
    )
    assert (tag, count, read) == ("bm25_bm25(k=1)", 1, ["bm25.yaml"])
    settings = config.read_pipeline("bm25", ["k=1"])
    assert len(Pipeline.load(settings, corpus=DOCUMENTS).search("green tent")["hits"]) == 1
    with pytest.raises(PipelineError, match="bm25: the pipeline needs documents"):
        Pipeline.load(settings)
    with pytest.raises(UsageError, match="overrides"):
        Pipeline.load(settings, corpus=DOCUMENTS, overrides=["k=2"])


def test_load_refuses_what_cannot_work(tmp_path):
    with pytest.raises(PipelineError, match=r"bm25: the pipeline needs documents.*--corpus"):
        Pipeline.load("bm25")
    with pytest.raises(DataError, match="two documents have the id 'd1'"):
        Pipeline.load("bm25", corpus=[DOCUMENTS[0], DOCUMENTS[0]])
    with pytest.raises(DataError, match="cannot be used in a TREC file"):
        Pipeline.load("bm25", corpus=[Document("a b", "x")])
    (tmp_path / "p.yaml").write_text("name: p\nstages: [{passages: {k: 1}}, {bm25: {}}]\n")
    with pytest.raises(PipelineError, match=r"p\.yaml, stage 1, passages: no stage before it produces hits.*bm25"):
        Pipeline.load(tmp_path / "p.yaml", corpus=DOCUMENTS)
