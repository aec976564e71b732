"""Pipelines that search in an engine: `index load`, then `search`, with fields, filters, fusion and adapters."""

from __future__ import annotations

import json

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import EngineError, PipelineError, StaleIndex
from searchlora.eval.trec import read_run
from searchlora.experiments.run import run
from searchlora.files.append_log import AppendLog
from searchlora.inference.engines import Engines
from searchlora.pipelines import pipeline as pipelines
from searchlora.pipelines.config import parse_stages, read_pipeline
from searchlora.pipelines.engine_load import load_corpus
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.slots import find_slots
from searchlora.systems.pipeline import plan_of
from tests.factories import random_encoder_adapter, read_jsonl, shout, write_jsonl

CORPUS = [
    {"sku": "p1", "name": "Red couch", "description": "for two", "brand": "Acme"},
    {"sku": "p2", "name": "Green tent", "description": "for four", "brand": "Northway"},
    {"sku": "p3", "name": "Blue tent", "description": "with pegs, green", "brand": "Acme"},
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SEARCHLORA_STORE", str(tmp_path / "store"))


@pytest.fixture(params=["postgres", "milvus"])
def engine(request):
    return {"engine": request.param, "url": request.getfixturevalue(f"{request.param}_url")}


@pytest.fixture
def products(tmp_path):
    return write_jsonl(tmp_path / "products.jsonl", CORPUS)


MAP = ("--map", "id=sku", "--map", "title=name", "--map", "text=description")


def write(file, *stages, **more):
    file.write_text(json.dumps({"name": file.stem, "stages": [*stages, {"passages": {"k": 2}}], **more}))
    return file


def ids(found):
    return [hit["document"] for hit in found["hits"]]


@pytest.mark.slow
def test_a_hybrid_pipeline_from_the_command_line(tmp_path, engine, products, encoder_base, cli):
    common = {**engine, "index": "hybrid", "filter": {"brand": "$brand"}}
    text = {"text_search": {**common, "fields": {"title": 3, "text": 1}}}
    vectors = {"vector_search": {**common, "model": str(encoder_base.path)}}
    stages = [{"fuse": {"of": [text, vectors]}}, {"filter": {"boost": {"brand": "intent.brand"}}}]
    shop = write(tmp_path / "shop.yaml", *stages, parameters={"brand": "acme"})
    refused = cli("search", shop, "tent")
    assert refused.code == 1 and "there is no such index" in refused.err
    assert f"searchlora index load CORPUS --pipeline {shop}" in " ".join(refused.err.split())
    loaded = cli("index", "load", products, "--pipeline", shop, *MAP)
    assert loaded.code == 0 and "Loaded hybrid\n3 documents\nfull text: title, text (" in loaded.out
    assert "dimensions (exact)" in loaded.out
    again = json.loads(cli("index", "load", products, "--pipeline", shop, *MAP, "--json").out)
    assert [(each["index"], each["loaded"], each["documents"]) for each in again] == [("hybrid", False, 3)]
    pipeline = Pipeline.load(shop)
    assert ids(pipeline.search("green tent")) == ["p3", "p1"]
    (executed,) = pipeline.execute([{"id": "1", "query": "green tent"}])
    assert executed["passages"][0]["text"] == "with pegs, green"
    assert ids(Pipeline.load(shop, overrides=["brand=NORTHWAY"]).search("green tent")) == ["p2"]
    name = engine["engine"]
    assert f"text_search({name}:hybrid,fields=title^3:text^1,filter=brand:acme)" in pipeline.labels[0]
    assert [slot.name for slot in find_slots(pipeline.settings)][:2] == ["text_search", "vector_search"]
    (tmp_path / "queries.tsv").write_text("id\tquery\nq1\tgreen tent\nq2\t\n")
    run(shop, tmp_path / "queries.tsv", out=tmp_path / "out.jsonl")
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [hit["document"] for hit in rows[0]["hits"]] == ["p3", "p1"] and rows[1]["hits"] == []


@pytest.mark.slow
def test_another_adapter_or_corpus_makes_the_index_stale(tmp_path, postgres_url, products, encoder_base):
    store = Store(tmp_path / "store")
    random_encoder_adapter(store, "shouter", shout(tmp_path / "task"), encoder_base, tmp_path / "made")
    random_encoder_adapter(store, "other", shout(tmp_path / "task"), encoder_base, tmp_path / "made2", seed=1)
    stage = {"engine": "postgres", "url": postgres_url, "index": "adapted", "model": str(encoder_base.path)}
    shop = write(
        tmp_path / "shop.yaml", {"vector_search": {**stage, "adapter": "$adapter"}}, parameters={"adapter": "shouter@1"}
    )
    documents = [{"id": row["sku"], "text": row["name"]} for row in CORPUS]
    write_jsonl(products, documents)
    (loaded,) = load_corpus(products, pipelines=[shop], store=store)
    assert loaded.record.vectors.adapter == "shouter@1"
    assert len(Pipeline.load(shop, store=store).search("tent")["hits"]) == 3
    with pytest.raises(
        StaleIndex, match=r"are those of shouter@1; the adapter's weights differ.*--set adapter=other@1"
    ):
        Pipeline.load(shop, store=store, overrides=["adapter=other@1"])
    plain = write(tmp_path / "plain.yaml", {"vector_search": stage})
    with pytest.raises(StaleIndex, match="an adapter is used, and none in the pipeline"):
        Pipeline.load(plain, store=store)
    with pytest.raises(PipelineError, match="stages need different vectors of one index"):
        load_corpus(products, pipelines=[shop, plain], store=store)
    graph = write(tmp_path / "graph.yaml", {"vector_search": {**stage, "adapter": "shouter@1", "structure": "hnsw"}})
    with pytest.raises(StaleIndex, match="its search is exact"):
        Pipeline.load(graph, store=store)
    load_corpus(products, pipelines=[graph], store=store)
    assert ids(Pipeline.load(graph, store=store).search("Green tent"))[0] == "p2"
    write_jsonl(products, [*documents, {"id": "p4", "text": "sofa"}])
    with pytest.raises(StaleIndex, match=r"was changed after the index was loaded.*index load .*products.jsonl"):
        Pipeline.load(graph, store=store)


@pytest.mark.slow
def test_pipelines_of_one_index_are_loaded_together(tmp_path, postgres_url, products):
    stage = {"engine": "postgres", "url": postgres_url, "index": "together"}
    write_jsonl(products, [{"id": row["sku"], "text": row["name"], **row} for row in CORPUS])
    one = write(tmp_path / "one.yaml", {"text_search": {**stage, "fields": {"text": 1}}})
    other_limits = {"timeout_s": 9, "concurrency": 2}  # of the connection, not of the index
    searched = {"text_search": {**stage, **other_limits, "fields": {"brand": 2}}}
    two = write(tmp_path / "two.yaml", searched, parameters={"k": 3})
    (loaded,) = load_corpus(products, pipelines=[one, two], overrides=["k=5"])
    assert loaded.record.text.fields == ("text", "brand")
    assert ids(Pipeline.load(one).search("tent acme")) == ["p3", "p2"]
    assert ids(Pipeline.load(two).search("tent acme")) == ["p3", "p1"]
    english = write(tmp_path / "english.yaml", {"text_search": {**stage, "analyzer": "english"}})
    with pytest.raises(PipelineError, match="stages need the analysers simple and english of one index"):
        load_corpus(products, pipelines=[one, english])
    with pytest.raises(PipelineError, match="no stage searches in an engine"):
        load_corpus(products, pipelines=["bm25"])


@pytest.mark.slow
def test_what_was_computed_on_an_index_is_not_used_for_the_next_load_of_it(
    tmp_path, postgres_url, products, monkeypatch
):
    stage = {"engine": "postgres", "url": postgres_url, "index": "loaded_again"}
    shop = write(tmp_path / "shop.yaml", {"text_search": stage})
    (tmp_path / "queries.tsv").write_text("id\tquery\nq1\ttent\nq2\ttent\n")

    def load(*texts):
        write_jsonl(products, [{"id": f"d{number}", "text": text} for number, text in enumerate(texts)])
        load_corpus(products, pipelines=[shop])

    def planned():
        return plan_of("shop", read_pipeline(shop).stages, Engines(Store())).sha256

    load("tent", "sofa")
    first = planned()
    assert planned() == first
    append = AppendLog.append

    def stops(self, row):
        append(self, row)
        if "out" in row:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipelines, "_BATCH", 1)
        with patch.context() as killed, pytest.raises(KeyboardInterrupt):
            killed.setattr(AppendLog, "append", stops)
            run(shop, tmp_path / "queries.tsv", out=tmp_path / "run.trec")
        load("sofa", "tent")
        run(shop, tmp_path / "queries.tsv", out=tmp_path / "run.trec")
    assert [list(hits) for hits in read_run(tmp_path / "run.trec").values()] == [["d1"], ["d1"]]
    assert planned() != first


@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        ("text_search", {"engine": "solr"}, "'engine'"),
        ("text_search", {"index": "products; drop table x"}, "'index'"),
        ("text_search", {"fields": {}}, "'fields': .*at least 1"),
        ("text_search", {"fields": {"title": 0}}, "'fields.title': .*greater than 0"),
        ("text_search", {"filter": {"brand": " "}}, "'filter.brand"),
        ("text_search", {"analyzer": "x'y"}, "'analyzer'"),
        ("vector_search", {"model": "m", "hnsw_ef_search": 0}, "'hnsw_ef_search'"),
    ],
)
def test_settings_that_cannot_work_are_refused(kind, settings, says):
    stage = {"engine": "postgres", "url": "postgresql:///shop", "index": "products", **settings}
    with pytest.raises(PipelineError, match=f"here, stage 1: .*{says}"):
        parse_stages([{kind: stage}], "here")


def test_a_password_comes_from_an_allowed_environment_variable_only(tmp_path, monkeypatch):
    place = {"engine": "postgres", "url": "postgresql:///shop?host=/nowhere"}
    stage = {**place, "index": "a", "api_key_env": "SHOP_PASSWORD"}
    shop = write(tmp_path / "shop.yaml", {"text_search": stage})
    with pytest.raises(PipelineError, match="may not send the environment variable SHOP_PASSWORD"):
        read_pipeline(shop)
    monkeypatch.setenv("SEARCHLORA_API_KEY_VARIABLES", "SHOP_PASSWORD")
    with pytest.raises(PipelineError, match="SHOP_PASSWORD with the server's key is not set"):
        Pipeline.load(shop)
    monkeypatch.setenv("SHOP_PASSWORD", "secret")
    with pytest.raises(EngineError, match="the database cannot be reached") as raised:
        Pipeline.load(shop)
    assert "secret" not in str(raised.value)
