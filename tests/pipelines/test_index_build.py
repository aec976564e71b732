"""Pipelines on an index folder have the hits of pipelines on the corpus."""

from __future__ import annotations

import json

import pytest

from searchlora.adapters.store import Store
from searchlora.data.collection import read_documents
from searchlora.errors import DataError, PipelineError, StaleIndex
from searchlora.pipelines.index_build import build_index
from searchlora.pipelines.pipeline import Pipeline
from searchlora.retrieval import Encoder
from searchlora.retrieval.index_manifest import read_manifest
from searchlora.testing import build_tiny_encoder
from tests.factories import encoder_recipe_for, random_encoder_adapter, shout, write_jsonl

QUERIES = ["green tent", "boots", "acme", "nothing", ""]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus.jsonl")


def write_corpus(file, more=""):
    texts = [f"green boots {'tent ' * (n % 4)}{n % 9}{more}" for n in range(40)]
    texts[3] = ""
    titles = ["Tent" * (n % 5 == 1) for n in range(40)]
    rows = enumerate(zip(titles, texts, strict=True))
    return write_jsonl(
        file, [{"id": f"d{n}", "title": title, "text": text, "brand": "Acme"} for n, (title, text) in rows]
    )


def write_pipeline(file, *stages):
    file.write_text(json.dumps({"name": file.stem, "stages": [*stages, {"passages": {"k": 2}}]}))
    return file


@pytest.fixture
def pipelines(tmp_path, encoder_base):
    model = str(encoder_base.path)
    stages = {
        "bm25": {"bm25": {"stemmer": "english", "fields": {"title": 2, "text": 1, "brand": 1}}},
        "dense": {"dense": {"model": model, "k": 7, "query_prefix": "q: "}},
        "hnsw": {"dense": {"model": model, "index": "hnsw", "hnsw_m": 4}},
        "fuse": {"fuse": {"of": [{"bm25": {"k1": 1.2}}, {"dense": {"model": model, "precision": "bf16"}}]}},
    }
    return {name: write_pipeline(tmp_path / f"{name}.yaml", stage) for name, stage in stages.items()}


def searched(pipeline, corpus, **more):
    loaded = Pipeline.load(pipeline, corpus=corpus, **more)
    searches = [{"id": str(number), "query": query} for number, query in enumerate(QUERIES)]
    return [(found["hits"], found["passages"]) for found in loaded.execute(searches)]


@pytest.mark.slow
def test_hits_and_passages_equal_those_of_the_corpus_which_is_not_read_again(tmp_path, corpus, pipelines, monkeypatch):
    built = build_index(corpus, tmp_path / "index", pipelines=list(pipelines.values()))
    assert built.built and len(built.manifest.bm25) == 2 and len(built.manifest.dense) == 2
    for name, pipeline in pipelines.items():
        assert searched(pipeline, tmp_path / "index") == searched(pipeline, corpus), name
    assert list(read_documents(tmp_path / "index")) == list(read_documents(corpus))
    expected = searched(pipelines["fuse"], corpus)
    corpus.unlink()
    monkeypatch.setattr(Encoder, "encode_documents", lambda *_, **__: pytest.fail("a document was encoded"))
    monkeypatch.setattr("searchlora.pipelines.corpus.read_documents", lambda *_: pytest.fail("the corpus was read"))
    assert searched(pipelines["fuse"], tmp_path / "index") == expected


@pytest.mark.slow
def test_a_pipeline_file_names_an_index_as_its_corpus(tmp_path, corpus):
    build_index(corpus, tmp_path / "index")
    (tmp_path / "p.yaml").write_text("name: p\ncorpus: index\nstages: [{bm25: {k: 3}}]\n")
    assert len(Pipeline.load(tmp_path / "p.yaml").search("tent")["hits"]) == 3
    (tmp_path / "p.yaml").write_text("name: p\ncorpus: {file: index, map: {id: sku}}\nstages: [{bm25: {}}]\n")
    with pytest.raises(DataError.__base__, match="the columns of an index are those that it was built with"):
        Pipeline.load(tmp_path / "p.yaml")


@pytest.mark.slow
def test_another_corpus_replaces_the_index_where_a_symbolic_link_leads(tmp_path, corpus, pipelines):
    out = tmp_path / "index"
    (tmp_path / "real").mkdir()
    out.symlink_to("real")
    build_index(corpus, out, pipelines=[pipelines["dense"]])
    write_corpus(corpus, more=" purple")
    with pytest.raises(StaleIndex, match="was changed after the index was built"):
        Pipeline.load(pipelines["dense"], corpus=out)
    built = build_index(corpus, out)
    assert built.built and built.manifest.dense == ()
    assert len(Pipeline.load("bm25", corpus=out).search("purple")["hits"]) == 39
    assert out.is_symlink() and read_manifest(tmp_path / "real").documents == 40


@pytest.mark.slow
def test_a_damaged_index_is_built_again(tmp_path, corpus):
    out = tmp_path / "index"
    build_index(corpus, out)
    (out / "documents.jsonl").write_text("{}")
    assert build_index(corpus, out).built
    assert len(Pipeline.load("bm25", corpus=out).search("tent")["hits"]) > 0


@pytest.mark.slow
def test_an_index_is_built_from_an_index_when_the_corpus_is_gone(tmp_path, corpus, pipelines):
    build_index(corpus, tmp_path / "one")
    identity = read_manifest(tmp_path / "one").corpus
    expected = searched(pipelines["bm25"], corpus)
    corpus.unlink()
    built = build_index(tmp_path / "one", tmp_path / "two", pipelines=[pipelines["bm25"]])
    assert built.manifest.corpus == identity
    assert searched(pipelines["bm25"], tmp_path / "two") == expected


# Stale models


@pytest.mark.slow
def test_another_encoder_is_refused(tmp_path, corpus):
    def use(folder, seed):
        model = build_tiny_encoder(tmp_path / folder, seed=seed)
        return write_pipeline(tmp_path / "p.yaml", {"dense": {"model": str(model)}})

    build_index(corpus, tmp_path / "index", pipelines=[use("first", 0)])
    Pipeline.load(use("moved", 0), corpus=tmp_path / "index")  # the same weights elsewhere
    with pytest.raises(StaleIndex, match=r"in the vectors of encoder the encoder is another one \(tensors differ\)"):
        Pipeline.load(use("other", 1), corpus=tmp_path / "index")


@pytest.mark.slow
def test_another_version_of_an_adapter_is_refused(tmp_path, corpus, encoder_base):
    store, task = Store(tmp_path / "store"), shout(tmp_path / "task")
    for seed in (1, 2):
        random_encoder_adapter(store, "own", task, encoder_base, tmp_path / f"made{seed}", seed=seed)
    pipeline = tmp_path / "p.yaml"

    def use(**settings):
        write_pipeline(pipeline, {"dense": {"model": str(encoder_base.path), **settings}})

    use(adapter="own@1")
    built = build_index(corpus, tmp_path / "index", pipelines=[pipeline], store=store)
    assert built.manifest.dense[0].adapter == "own@1"
    assert searched(pipeline, tmp_path / "index", store=store) == searched(pipeline, corpus, store=store)
    for settings, complaint in (
        ({"adapter": "own@2"}, "vectors of own@1 the adapter's weights differ"),
        ({}, "an adapter is used, and none in the pipeline"),
        ({"adapter": "own@1", "document_prefix": "x"}, "document_prefix is '', and 'x' in the pipeline"),
        ({"adapter": "own@1", "index": "hnsw"}, r"has no graph \(.*m=32.*there is none"),
    ):
        use(**settings)
        with pytest.raises(StaleIndex, match=complaint) as refused:
            Pipeline.load(pipeline, corpus=tmp_path / "index", store=store)
        assert str(refused.value.fix).endswith(f"--pipeline {pipeline}")


@pytest.mark.slow
def test_an_adapter_for_queries_uses_the_vectors_of_its_base(tmp_path, corpus, encoder_base, monkeypatch):
    monkeypatch.setattr("tests.factories.encoder_recipe_for", lambda base: encoder_recipe_for(base, "sides=query"))
    store = Store(tmp_path / "store")
    random_encoder_adapter(store, "asker", shout(tmp_path / "task"), encoder_base, tmp_path / "made", seed=1)
    assert store.get("asker").manifest.query_side_only
    dense = {"model": str(encoder_base.path)}
    plain = write_pipeline(tmp_path / "plain.yaml", {"dense": dense})
    asking = write_pipeline(tmp_path / "asking.yaml", {"dense": {**dense, "adapter": "asker@1"}})
    build_index(corpus, tmp_path / "index", pipelines=[plain])
    assert searched(asking, tmp_path / "index", store=store) == searched(asking, corpus, store=store)
    assert searched(asking, corpus, store=store) != searched(plain, corpus)


# Replacing an index


@pytest.mark.slow
def test_an_index_that_has_all_that_is_needed_stays(tmp_path, corpus, pipelines):
    out, both = tmp_path / "index", [pipelines["dense"], pipelines["hnsw"], pipelines["bm25"]]
    build_index(corpus, out, pipelines=[pipelines["dense"]])
    with pytest.raises(StaleIndex, match="has no BM25 index"):
        Pipeline.load(pipelines["bm25"], corpus=out)
    assert build_index(corpus, out, pipelines=both).built
    for pipeline in both:
        Pipeline.load(pipeline, corpus=out)
        assert not build_index(corpus, out, pipelines=[pipeline]).built
    assert sorted(each.name for each in tmp_path.iterdir() if "index" in each.name) == ["index"]


def test_an_interrupted_build_leaves_the_index_that_was_there(tmp_path, corpus, monkeypatch):
    out = tmp_path / "index"
    build_index(corpus, out)
    write_corpus(corpus, more=" purple")

    def killed(*_):
        raise KeyboardInterrupt

    for broken in ("searchlora.files.atomic.publish_folder", "searchlora.pipelines.index_build.write_manifest"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(broken, killed)
            build_index(corpus, out)
        assert read_manifest(out).documents == 40
        assert sorted(each.name for each in tmp_path.iterdir() if "index" in each.name) == ["index"]
    assert build_index(corpus, out).built
    assert len(Pipeline.load("bm25", corpus=out).search("purple")["hits"]) == 39


def test_a_build_with_an_error_leaves_nothing(tmp_path, corpus):
    corpus.write_text('{"id": "d1", "text": "x"}\n{"id": "d1", "text": "y"}\n')
    with pytest.raises(DataError, match="two documents have the id 'd1'"):
        build_index(corpus, tmp_path / "index")
    assert [each.name for each in tmp_path.iterdir() if "index" in each.name] == []


def test_a_corpus_that_changes_while_it_is_read_is_an_error(tmp_path, corpus, monkeypatch):
    real = read_documents

    def changing(source):
        yield from real(source)
        write_corpus(corpus, more="!")

    monkeypatch.setattr("searchlora.pipelines.index_build.read_documents", changing)
    with pytest.raises(DataError, match="was changed while it was read"):
        build_index(corpus, tmp_path / "index")


def test_a_folder_that_is_no_index_is_not_replaced(tmp_path, corpus):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "mine.txt").write_text("x")
    with pytest.raises(DataError, match="already exists, and is not an index"):
        build_index(corpus, tmp_path / "index")


def test_parameters_go_to_the_pipelines_that_have_them(tmp_path, corpus):
    files = [tmp_path / "k1.yaml", tmp_path / "b.yaml"]
    for file, value in zip(files, (1.5, 0.5), strict=True):
        content = {"name": "p", "parameters": {file.stem: value}, "stages": [{"bm25": {file.stem: f"${file.stem}"}}]}
        file.write_text(json.dumps(content))
    built = build_index(corpus, tmp_path / "index", pipelines=files, overrides=["k1=2.5"])
    assert sorted((part.keys.k1, part.keys.b) for part in built.manifest.bm25) == [(0.9, 0.5), (2.5, 0.4)]
    with pytest.raises(PipelineError, match="'unknown=1' sets no parameter"):
        build_index(corpus, tmp_path / "index", pipelines=files, overrides=["unknown=1"])
