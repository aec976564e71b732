"""The pipeline: loading, execution in order, and results; invalid outputs are kept as invalid."""

from __future__ import annotations

from dataclasses import replace

import pytest

import searchlora
from searchlora.errors import DataError, PipelineError, UsageError
from searchlora.outputs import CitedAnswer, Grade, InvalidOutput, Label
from searchlora.pipelines import config
from searchlora.pipelines.pipeline import Pipeline, run_of
from searchlora.pipelines.results import result, result_line
from searchlora.records import Document, Hit
from searchlora.systems.pipeline import with_history
from tests.factories import write_jsonl
from tests.pipelines.rewriting import DOCUMENTS, Rewriter, built, searches


def test_the_rewritten_query_is_searched_and_an_invalid_output_is_kept_and_is_not():
    rewritten, empty = built(Rewriter()).execute(searches("kicks", "empty"))
    assert (rewritten["query"], rewritten["outputs"]) == ("boots", {"rewriting": ["boots"]})
    assert [hit.document for hit in rewritten["hits"]] == ["d1"]
    assert (empty["query"], empty["outputs"]) == ("empty", {"rewriting": [InvalidOutput("", "empty")]})
    assert empty["hits"] == []
    cut = built(Rewriter(finish="length")).execute(searches("tent"))[0]
    assert isinstance(cut["outputs"]["rewriting"][0], InvalidOutput)
    assert {hit.document for hit in cut["hits"]} == {"d2", "d3"}


def test_an_invalid_output_is_told_after_a_later_stage_of_the_same_task():
    pipeline = built(Rewriter())
    rewrite, bm25 = pipeline.stages
    (search,) = searches("empty")
    (done,) = Pipeline("p", [rewrite, replace(rewrite, engine=Rewriter({"empty": "tent"})), bm25]).execute([search])
    assert (done["query"], done["outputs"]) == ("tent", {"rewriting": ["tent"]})
    assert result(search, done, pipeline.labels)["invalid"] == {"rewriting": ["empty"]}


def test_the_run_has_every_topic_the_tag_the_versions_and_batches_change_nothing():
    pipeline, given = built(Rewriter()), searches("kicks", "tent", "empty", "shelter")
    done = pipeline.execute(given)
    assert run_of(done).keys() == {"q0", "q1", "q2", "q3"}
    assert pipeline.tag == "p_rewriter@3_bm25(k=10)"
    assert pipeline.execute(given, batch=3) == done


def test_search_executes_one_query_with_its_fields():
    history = [{"role": "user", "text": "outdoor"}]
    pipeline, rows = built(Rewriter()), []
    found = pipeline.search("kicks", history=history)
    assert (found["query"], found["stages"]) == ("boots", ["rewriter@3", "bm25(k=10)"])
    assert [hit["document"] for hit in found["hits"]] == ["d1"]
    assert found["input"]["history"] == history
    pipeline.execute([{"id": "1", "query": "kicks", "history": history}], trace=rows.append)
    assert "User: outdoor" in rows[0]["requests"][0]["prompt"][-1]["content"]


@pytest.mark.parametrize(
    ("invalid", "says"),
    [
        ([{"query": "x"}], "query 1: has no 'id'"),
        ([{"id": "1"}], "query 1: has no 'query'"),
        ([{"id": "1", "query": "x"}, {"id": "2\ud800", "query": "x"}], "query 2: 'id': a text holds a lone surrogate"),
        ([{"id": "1", "query": "x"}, {"id": 1, "query": "y"}], "query 2: the id '1' is repeated"),
    ],
)
def test_invalid_searches_are_errors(invalid, says):
    with pytest.raises(PipelineError, match=says):
        built(Rewriter()).execute(invalid)


# Results


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
    answer = {"text": "Yes [1].", "citations": [1], "abstained": False, "abstention_probability": 0.1, "reason": None}
    assert result(search, executed, ["a@1", "bm25"]) == {
        "id": "q1",
        "query": "boots",
        "stages": ["a@1", "bm25"],
        "input": {"query": "kicks", "history": [{"role": "user", "text": "hi"}]},
        "hits": [{"rank": 1, "document": "d1", "score": 2.5}, {"rank": 2, "document": "d2", "score": 1.0}],
        "passages": [{"id": "d1", "title": "Boots", "score": 2.5}],
        "grades": [{"id": "d1", "grade": 2, "expected": 1.5, "probabilities": [0.0, 0.5, 0.5], "reason": None}],
        "intent": {"value": "buy", "probabilities": [0.9, 0.1]},
        "answer": answer,
        "invalid": {"judgment": ["no grade"]},
    }


def test_a_result_is_one_line_of_strict_json():
    assert result_line({"id": "q2", "note": "größe\n"}) == '{"id": "q2", "note": "größe\\n"}\n'
    for value in (object(), float("nan")):
        with pytest.raises(DataError, match=r"query q3: a result is not JSON"):
            result_line({"id": "q3", "x": value})


# Loading


@pytest.fixture
def corpus(tmp_path):
    return write_jsonl(tmp_path / "corpus.jsonl", [{"id": each.id, "text": each.text} for each in DOCUMENTS])


@pytest.mark.usefixtures("corpus")
def test_a_pipeline_file_names_its_corpus(tmp_path, monkeypatch):
    (tmp_path / "product.yaml").write_text("name: product\ncorpus: corpus.jsonl\nstages: [{bm25: {k: 2}}]\n")
    monkeypatch.chdir(tmp_path)
    for pipeline in ("product", "product.yaml", tmp_path / "product.yaml"):
        found = searchlora.Pipeline.load(pipeline).search("green tent")
        assert [hit["document"] for hit in found["hits"]] == ["d2", "d3"]
    monkeypatch.chdir("/")
    assert Pipeline.load(tmp_path / "product").search("pegs")["hits"][0]["document"] == "d3"


def test_a_file_may_map_the_columns_of_its_own_corpus(tmp_path):
    (tmp_path / "products.jsonl").write_text('{"sku": 7, "name": "Red tent", "maker": "Acme", "note": "for two"}\n')
    text = "name: shop\nparameters: {file: products.jsonl}\nstages: [{bm25: {fields: {title: 2, maker: 1}}}]\n"
    shop = tmp_path / "shop.yaml"
    shop.write_text(f"{text}corpus: {{file: $file, map: {{id: sku, title: name, text: [name, note]}}}}\n")
    for query in ("acme", "tent"):
        assert [hit["document"] for hit in Pipeline.load(shop).search(query)["hits"]] == ["7"]
    for wrong, named in {"{map: {id: sku}}": "'file'", "{file: x, map: {id: []}}": "'id' has no column"}.items():
        shop.write_text(f"name: shop\ncorpus: {wrong}\nstages: [{{bm25: {{}}}}]\n")
        with pytest.raises(PipelineError, match=f"shop.yaml, corpus: .*{named}"):
            Pipeline.load(shop)


def test_a_run_reads_the_pipeline_once_and_load_takes_what_was_read(tmp_path, corpus, monkeypatch):
    (tmp_path / "q.jsonl").write_text('{"id": "q1", "query": "green tent"}\n')
    real, read = config.read_bytes, []
    monkeypatch.setattr(config, "read_bytes", lambda path: read.append(path.name) or real(path))
    tag, count = searchlora.run(
        config.read_pipeline("bm25", ["k=1"]), tmp_path / "q.jsonl", corpus, tmp_path / "o.trec"
    )
    assert (tag, count, read) == ("bm25_bm25(k=1)", 1, ["bm25.yaml"])
    settings = config.read_pipeline("bm25", ["k=1"])
    assert len(Pipeline.load(settings, corpus=DOCUMENTS).search("green tent")["hits"]) == 1
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


@pytest.mark.parametrize("name", ["fused_queries", "failed_parts", "invalid_outputs", "skipped", "outputs"])
def test_what_stages_write_is_no_field_of_a_query(name):
    pipeline = Pipeline.load("bm25", corpus=[Document("d1", "green tent")])
    with pytest.raises(PipelineError, match=f"'{name}' is a field that stages write"):
        pipeline.search("green tent", **{name: "x"})
    assert with_history({"id": "1", "query": "tent", name: ["x"]}, "row 1") == {"id": "1", "query": "tent"}
