"""`searchlora search`, `run --out` and `pipelines`: what a user sees of pipelines."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from searchlora.eval.trec import read_run
from searchlora.pipelines.config import ready_pipelines
from searchlora.pipelines.stages.kinds import stage_classes


@pytest.fixture
def corpus(tmp_path):
    rows = [{"id": "d1", "title": "Red couch", "text": "for two [new]"}, {"id": "d2", "text": "green tent"}]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "corpus.jsonl"


@pytest.mark.slow
def test_search_prints_stages_and_hits(cli, corpus, tmp_path):
    called = cli("search", "bm25", "red green couch", "--corpus", corpus)
    assert called.code == 0, called
    lines = called.out.splitlines()
    assert lines[0].split() == ["stage", "ms", "prompt", "tokens", "output", "tokens"]
    assert lines[1].split()[:2] == ["1", "bm25"] and float(lines[1].split()[2]) > 0
    assert lines[-1] == "2 hits"
    (first,) = [line for line in lines if "Red couch" in line]
    assert first.split()[:2] == ["1", "d1"]
    assert len(cli("search", "bm25", "red green couch", "--corpus", corpus, "--top", 1).out.splitlines()) == 5
    found = json.loads(cli("search", "bm25", "green", "--corpus", corpus, "--json").out)
    assert found["hits"][0]["document"] == "d2"
    (tmp_path / "p.yaml").write_text("name: p\ncorpus: corpus.jsonl\nstages: [{bm25: {}}, {passages: {k: 1}}]\n")
    assert "passages(1)" in cli("search", tmp_path / "p.yaml", "tent").out  # what a stage wrote


@pytest.mark.usefixtures("corpus")
def test_search_takes_further_fields(cli, refused, tmp_path):
    stages = "[{bm25: {filter_by: {title: wanted}}}]"
    (tmp_path / "p.yaml").write_text(f"name: p\ncorpus: corpus.jsonl\nstages: {stages}\n")
    command = ("search", tmp_path / "p.yaml", "couch tent")
    everything = json.loads(cli(*command, "--json").out)["hits"]
    title = "Red couch"
    for value in (f"wanted={title}", f'wanted=["{title}", "x"]'):
        found = json.loads(cli(*command, "--field", value, "--json").out)
        assert [hit["document"] for hit in found["hits"]] == ["d1"] and len(everything) > 1
    explained = cli(*command, "--field", f"wanted={title}", "--explain", "d2").out
    assert "it was not searched: its title does not fulfil" in " ".join(explained.split())
    history = cli(*command, "--field", 'history=[{"role": "user", "text": "hi"}]', "--json")
    assert json.loads(history.out)["input"]["history"] == [{"role": "user", "text": "hi"}]
    assert "'history' is not a list of turns" in refused(*command, "--field", "history=hello")
    assert "'wanted' is not NAME=VALUE" in refused(*command, "--field", "wanted")
    assert "the value of 'wanted' is not JSON" in refused(*command, "--field", "wanted=[x")


def test_run_writes_results_and_run_in_one_call_and_traces_only_if_asked(cli, corpus, tmp_path):
    (tmp_path / "queries.tsv").write_text("id\tquery\nq1\tred couch\nq2\tnothing\n")
    files = [tmp_path / "a.trec", tmp_path / "a.jsonl"]
    outs = ("--out", files[0], "--out", files[1])
    command = ("run", "bm25", "--queries", tmp_path / "queries.tsv", "--corpus", corpus, *outs)
    called = cli(*command)
    assert called.code == 0, called
    assert read_run(files[0]).keys() == {"q1"}
    first, second = map(json.loads, files[1].read_text().splitlines())
    assert (first["id"], first["hits"][0]["document"]) == ("q1", "d1")
    assert (second["id"], second["hits"]) == ("q2", [])
    before = {path.name for path in tmp_path.iterdir()}
    assert cli(*command, "--trace", tmp_path / "trace.jsonl").code == 0
    assert {path.name for path in tmp_path.iterdir()} - before == {"trace.jsonl"}
    first, second = map(json.loads, (tmp_path / "trace.jsonl").read_text().splitlines())
    assert (first["id"], first["stage"], first["kind"]) == ("q1", 1, "bm25")
    assert first["input"] == {"query": "red couch"}
    assert [hit["document"] for hit in first["output"]["hits"]] == ["d1"]
    assert second["output"] == {"hits": []} and second["flags"] == []


def test_a_pipeline_without_hits_writes_results_only(refused, tmp_path):
    (tmp_path / "q.jsonl").write_text('{"id": "q1", "query": "x", "hits": ["d1"]}\n')
    (tmp_path / "p.yaml").write_text("name: p\nstages: [{adapter: {name: nobody}}]\n")
    told = refused("run", tmp_path / "p.yaml", "--queries", tmp_path / "q.jsonl", "--out", tmp_path / "o.trec")
    assert "no stage produces hits" in told and "--out results.jsonl" in told


@pytest.mark.slow
def test_list_names_every_ready_pipeline(cli):
    rows = json.loads(cli("pipelines", "list", "--json").out)
    assert [row["name"] for row in rows] == ready_pipelines()
    assert {row["name"]: row["stages"] for row in rows}["rewrite_hybrid"] == ["adapter", "fuse"]
    text = cli("pipelines", "list").out
    assert re.search(r"^conversational_search +fuse > passages > passages  \(rewriter=null, ", text, re.M)
    assert "rerank_run" in text and "from_run > passages > adapter" in text


@pytest.mark.parametrize("name", ready_pipelines())
def test_show_prints_a_file_that_works_as_ones_own(cli, tmp_path, name):
    text = cli("pipelines", "show", name).out
    assert yaml.safe_load(text)["name"] == name
    (tmp_path / "own.yaml").write_text(text)
    assert cli("pipelines", "show", tmp_path / "own.yaml").out == text


@pytest.mark.slow
def test_validate_says_what_is_wrong(refused, cli, tmp_path):
    assert "bm25 is valid" in cli("pipelines", "validate", "bm25").out
    assert "no adapter 'shop-judge'" in refused("pipelines", "validate", "rerank", "--store", tmp_path / "store")
    (tmp_path / "p.yaml").write_text("name: p\nstages: [{passages: {}}]\n")
    assert "stage 1, passages: no stage before it" in refused("pipelines", "validate", tmp_path / "p.yaml")
    assert "no pipeline 'nope'" in refused("pipelines", "validate", "nope")


@pytest.mark.slow
def test_stages_describes_every_kind_and_key(cli, refused):
    text = cli("pipelines", "stages").out
    for kind, model in stage_classes().items():
        assert f"\n{kind}\n" in f"\n{text}"
        for key in model.model_fields:
            assert f"    {key} " in text, (kind, key)
    one = cli("pipelines", "stages", "passages").out
    assert one.startswith("passages\n") and "bm25\n" not in one
    assert "Kinds: adapter, bm25" in refused("pipelines", "stages", "colour")


@pytest.mark.usefixtures("corpus")
def test_tune_prints_the_chosen_weights_beside_those_before(cli, refused, tmp_path):
    fuse = "fuse: {k: 1, of: [{bm25: {k: 1, fields: {title: 1}}}, {bm25: {k: 1, fields: {text: 1}}}]}"
    (tmp_path / "p.yaml").write_text(f"name: p\ncorpus: corpus.jsonl\nstages: [{fuse}]\n")
    (tmp_path / "topics.jsonl").write_text('{"id": "t1", "query": "couch tent"}\n')
    (tmp_path / "qrels.txt").write_text("t1 0 d1 1\n")
    judged = ("--topics", tmp_path / "topics.jsonl", "--qrels", tmp_path / "qrels.txt")
    command = ("tune", tmp_path / "p.yaml", "--out", tmp_path / "tuned.yaml")
    lines = cli(*command, *judged).out.splitlines()
    assert lines[0].startswith("before: bm25 (1) 1, bm25 (2) 1: nDCG@10 0.0000")
    assert lines[1].startswith("best: bm25 (1) 0.6, bm25 (2) 0.4: nDCG@10 1.0000")
    for incomplete in ((), judged[:2], (*judged, "--data", tmp_path)):
        assert "tune needs --data, or --topics and --qrels" in refused(*command, *incomplete)
    labelled = (*command, "--data", tmp_path)
    assert "a ranking model learns from judged topics" in refused(*labelled, "--ranking-model")
    assert "only a ranking model reads fields" in refused(*labelled, "--field-numbers", "votes")
