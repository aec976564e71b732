"""Pipelines on an index folder have the hits of pipelines on the corpus; a killed build is continued."""

from __future__ import annotations

import hashlib
import json
import time

import pytest
import torch

from searchlora.adapters.store import Store
from searchlora.data.collection import read_documents
from searchlora.errors import DataError, PipelineError, StaleIndex
from searchlora.experiments.index import index
from searchlora.experiments.sharding import Sharding
from searchlora.files import atomic
from searchlora.pipelines.index_build import build_index
from searchlora.pipelines.pipeline import Pipeline
from searchlora.progress import silent
from searchlora.retrieval import Encoder
from searchlora.retrieval.index_manifest import FileIdentity, Ivf, read_manifest, write_manifest
from searchlora.retrieval.nearest import write_graph
from searchlora.testing import build_tiny_encoder
from tests.child_scripts import Script
from tests.factories import encoder_recipe_for, random_encoder_adapter, shout

QUERIES = ["green tent", "boots", "acme", "nothing", ""]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def encoded(monkeypatch):
    """The number of texts of each call that encodes documents."""
    calls, encode = [], Encoder.encode_documents
    monkeypatch.setattr(
        Encoder, "encode_documents", lambda self, texts, **more: calls.append(len(texts)) or encode(self, texts, **more)
    )
    return calls


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus.jsonl")


def write_corpus(file, more=""):
    texts = [f"green boots {'tent ' * (n % 4)}{n % 9}{more}" for n in range(40)]
    texts[3] = ""
    rows = [
        {"id": f"d{n}", "title": "Tent" * (n % 5 == 1), "text": text, "brand": "Acme"} for n, text in enumerate(texts)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


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
def test_an_index_gets_what_it_lacks_and_keeps_what_it_has(tmp_path, corpus, pipelines, monkeypatch):
    out = tmp_path / "index"
    build_index(corpus, out, pipelines=[pipelines["dense"]])
    vectors = next(out.glob("dense-*/vectors.npy"))
    inode, content = vectors.stat().st_ino, vectors.read_bytes()
    with pytest.raises(StaleIndex, match="has no BM25 index"):
        Pipeline.load(pipelines["bm25"], corpus=out)
    monkeypatch.setattr(Encoder, "encode_documents", lambda *_, **__: pytest.fail("encoded again"))
    built = build_index(corpus, out, pipelines=[pipelines["hnsw"], pipelines["bm25"]])
    assert built.built and [each.kind for each in built.manifest.dense[0].structures] == ["hnsw"]
    assert (vectors.stat().st_ino, vectors.read_bytes()) == (inode, content)
    for name in ("dense", "hnsw", "bm25"):
        Pipeline.load(pipelines[name], corpus=out)
    assert not build_index(corpus, out, pipelines=[pipelines["dense"]]).built
    assert sorted(each.name for each in tmp_path.iterdir() if "index" in each.name) == ["index"]


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
def test_the_index_of_a_moved_corpus_names_its_new_place(tmp_path, corpus, pipelines, monkeypatch):
    out = tmp_path / "index"
    files = build_index(corpus, out, pipelines=[pipelines["hnsw"]]).manifest.files
    moved = corpus.rename(tmp_path / "moved.jsonl")
    monkeypatch.setattr(Encoder, "encode_documents", lambda *_, **__: pytest.fail("encoded again"))
    built = build_index(moved, out, pipelines=[pipelines["hnsw"]])
    assert (built.manifest.corpus.path, built.manifest.files) == (str(moved), files)
    assert not build_index(moved, out, pipelines=[pipelines["hnsw"]]).built
    write_corpus(moved, more=" purple")
    with pytest.raises(StaleIndex, match=r"moved\.jsonl was changed after the index was built"):
        Pipeline.load(pipelines["hnsw"], corpus=out)


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


# Shards


@pytest.fixture
def many(tmp_path, encoder_base):
    """Arguments of a build whose vectors have 10 parts."""
    corpus = tmp_path / "many.jsonl"
    corpus.write_text(
        "".join(json.dumps({"id": f"d{n}", "text": f"tent {'x' * (n % 9)}{n}"}) + "\n" for n in range(150))
    )
    dense = {"dense": {"model": str(encoder_base.path), "batch_size": 1}}
    return corpus, write_pipeline(tmp_path / "p.yaml", {"fuse": {"of": [{"bm25": {}}, dense]}})


@pytest.mark.slow
def test_shards_that_are_encoded_alone_are_joined_by_the_last_build(tmp_path, many, cli, refused, encoded):
    corpus, pipeline = many
    whole = build_index(corpus, tmp_path / "whole", pipelines=[pipeline])
    command = ["index", "build", corpus, "--out", tmp_path / "idx"]
    assert "there are no documents to encode yet" in refused(*command, "--pipeline", pipeline, "--shard", "2/3")
    assert cli(*command).code == 0
    encoded.clear()
    for shard in ("3/3", "1/3", "1/3", "2/3"):
        done = cli(*command, "--pipeline", pipeline, "--shard", shard)
        assert f"Shard {shard} of {tmp_path / 'idx'} is complete" in done.out, done.err
    assert "these are shards of an index" in refused("merge", tmp_path / "idx")
    assert (sum(encoded), max(encoded)) == (150, 16)
    assert "Wrote" in cli(*command, "--pipeline", pipeline).out
    assert sum(encoded) == 150
    assert read_manifest(tmp_path / "idx").files == whole.manifest.files
    assert not (tmp_path / "idx.partial").exists()


@pytest.mark.slow
def test_a_build_leaves_the_finished_vectors_of_another_pipeline(tmp_path, many, cli, encoded):
    corpus, pipeline = many
    command = ["index", "build", corpus, "--out", tmp_path / "idx"]
    assert cli(*command).code == 0
    assert cli(*command, "--pipeline", pipeline, "--shard", "1/2").code == 0
    other = write_pipeline(tmp_path / "other.yaml", {"bm25": {"k1": 2.0}})
    assert cli(*command, "--pipeline", other).code == 0
    before = sum(encoded)
    assert cli(*command, "--pipeline", pipeline).code == 0
    assert 0 < before < sum(encoded) == 150
    assert not (tmp_path / "idx.partial").exists()


@pytest.fixture
def one_thread(monkeypatch):
    """One thread here and in child processes: with another number the last bits of vectors differ."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_shards_at_once_replace_an_index_only_when_they_are_joined(tmp_path, many):
    corpus, pipeline = many
    old, out = write_corpus(tmp_path / "old.jsonl"), tmp_path / "index"
    whole = build_index(corpus, tmp_path / "whole", pipelines=[pipeline])
    build_index(old, out, pipelines=[pipeline])

    def steps(name):
        assert read_manifest(out).documents == 40, name
        return silent

    built = index(corpus, out, pipelines=[pipeline], sharding=Sharding(shards=2), steps=steps)
    assert built.built and built.manifest.files == whole.manifest.files
    assert sorted(file.name for file in tmp_path.iterdir() if "index" in file.name) == ["index"]


# Interrupted builds

_BUILD = """
import sys, time
from searchlora.pipelines.index_build import build_index

def steps(name):
    return lambda *_: time.sleep(0.2 if name == "Encoding" else 0)

build_index(sys.argv[1], sys.argv[2], pipelines=sys.argv[3:], steps=steps)
"""


@pytest.mark.slow
def test_a_killed_build_is_continued_to_the_same_bytes(tmp_path, encoder_base, encoded):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": f"d{n}", "text": f"tent {n}"}) + "\n" for n in range(150)))
    dense = {"dense": {"model": str(encoder_base.path), "batch_size": 1}}
    pipeline = write_pipeline(tmp_path / "p.yaml", {"fuse": {"of": [{"bm25": {}}, dense]}})
    whole, out = tmp_path / "whole", tmp_path / "index"
    build_index(corpus, whole, pipelines=[pipeline])
    encoded.clear()

    def parts_kept():
        return len(list(tmp_path.glob("index.partial/dense-*/*.part.jsonl")))

    kept = 0
    for _ in range(2):
        script = Script(_BUILD, corpus, out, pipeline)
        while parts_kept() <= kept:
            assert script.is_running(), script.stderr
            time.sleep(0.02)
        script.kill()
        script.wait()
        kept = parts_kept()
        assert not out.exists()
        with pytest.raises(DataError):
            Pipeline.load("bm25", corpus=tmp_path / ".index.building")
    logs = [log.read_bytes().count(b"\n") > 1 for log in tmp_path.glob("index.partial/dense-*/*.log")]
    reported = set()
    built = build_index(corpus, out, pipelines=[pipeline], steps=lambda name: reported.add(name) or silent)
    assert reported == {"Encoding"}  # documents and BM25 were complete
    assert sum(encoded) == 150 - 16 * (kept + sum(logs))
    assert built.manifest.files == read_manifest(whole).files
    assert not (tmp_path / ".index.building").exists() and not (tmp_path / "index.partial").exists()


@pytest.mark.slow
def test_half_a_graph_of_a_killed_build_is_never_part_of_an_index(tmp_path, corpus, pipelines, monkeypatch):
    out = tmp_path / "index"

    def killed(_, file):
        with file.open("wb") as half:
            half.write(b"half")
        raise KeyboardInterrupt

    def kill(pipeline):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("searchlora.pipelines.index_build.write_graph", killed)
            build_index(corpus, out, pipelines=[pipelines[pipeline]])

    kill("hnsw")
    (dense,) = (tmp_path / ".index.building").glob("dense-*")
    (dense / "encoded.f32").write_bytes(b"left")
    built = build_index(corpus, out, pipelines=[pipelines["bm25"]])
    in_dense = {name.partition("/")[2] for name in built.manifest.files if name.startswith("dense-")}
    assert in_dense == {"vectors.npy", "rows.npy"} == {file.name for file in out.glob("dense-*/*")}
    build_index(corpus, out, pipelines=[pipelines["hnsw"]])
    for name in ("hnsw", "bm25"):
        Pipeline.load(pipelines[name], corpus=out)


@pytest.mark.slow
def test_a_graph_is_not_written_into_a_file_of_the_index_in_use(tmp_path, corpus, pipelines, monkeypatch):
    out = tmp_path / "index"
    build_index(corpus, out, pipelines=[pipelines["dense"]])
    (dense,) = out.glob("dense-*")
    manifest = read_manifest(out)
    (dense / "hnsw-4-200.faiss").write_bytes(b"half")  # as versions before left it, listed among the files
    listed = FileIdentity(sha256=hashlib.sha256(b"half").hexdigest(), bytes=4)
    files = {**manifest.files, f"{dense.name}/hnsw-4-200.faiss": listed}
    write_manifest(out, manifest.model_copy(update={"files": files}))

    def looked(index, file):
        write_graph(index, file)
        Pipeline.load(pipelines["dense"], corpus=out)  # as before

    monkeypatch.setattr("searchlora.pipelines.index_build.write_graph", looked)
    build_index(corpus, out, pipelines=[pipelines["hnsw"]])
    Pipeline.load(pipelines["hnsw"], corpus=out)


@pytest.mark.slow
def test_an_index_of_the_last_release_with_lists_of_vectors_is_searched(tmp_path, corpus, pipelines):
    out = tmp_path / "index"
    build_index(corpus, out, pipelines=[pipelines["dense"]])
    (dense,) = out.glob("dense-*")
    (dense / "ivf-3.faiss").write_bytes(b"lists")
    manifest = read_manifest(out)
    listed = FileIdentity(sha256=hashlib.sha256(b"lists").hexdigest(), bytes=5)
    files = {**manifest.files, f"{dense.name}/ivf-3.faiss": listed}
    part = manifest.dense[0].model_copy(update={"structures": (Ivf(lists=3),)})
    write_manifest(out, manifest.model_copy(update={"files": files, "dense": (part,)}))
    assert searched(pipelines["dense"], out) == searched(pipelines["dense"], corpus)
    build_index(corpus, out, pipelines=[pipelines["hnsw"]])
    Pipeline.load(pipelines["hnsw"], corpus=out)


@pytest.mark.slow
def test_a_build_that_was_killed_before_the_last_rename_is_completed(tmp_path, corpus, monkeypatch):
    out = tmp_path / "index"
    build_index(corpus, out)
    write_corpus(corpus, more=" purple")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "publish_folder", killed)
        with pytest.raises(KeyboardInterrupt):
            build_index(corpus, out)
    assert not out.exists()  # moved aside
    called = []
    assert build_index(corpus, out, steps=lambda name: called.append(name) or (lambda *_: None)).built
    assert called == []
    assert sorted(each.name for each in tmp_path.iterdir() if "index" in each.name) == ["index"]
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


def test_two_builds_of_one_index_do_not_mix(tmp_path, corpus):
    with (
        atomic.resumable_folder(tmp_path / "index"),
        pytest.raises(DataError, match="another process is building it"),
    ):
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
