"""Loading a corpus into a search engine, and opening what was loaded, which is the same for every engine."""

from __future__ import annotations

import numpy as np
import pytest

from searchlora.errors import DataError, EngineError, StaleIndex
from searchlora.records import Document
from searchlora.retrieval.engine_index import BATCH, TextKeys, load_index, open_index
from searchlora.retrieval.opensearch import OpenSearch
from searchlora.retrieval.search_engine import Graph, TextSearch, VectorSearch
from tests.inference.http_server import answering
from tests.retrieval.opensearch_server import Cluster
from tests.retrieval.vectorizers import FINGERPRINT, found, identity, numbered, vectorizer_of

FIELDS = ("title", "text", "brand")
KEYS = TextKeys(fields=("text",), analyzer="standard")
PRODUCTS = [Document("p1", "for two", "Red couch", {"brand": "Acme"}), Document("p2", "for four", "Green tent")]


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def engine(cluster):
    with answering(cluster) as server:
        yield OpenSearch(server.url)


def test_a_killed_load_goes_on_without_encoding_again(engine, encoder, monkeypatch, tmp_path):
    corpus = identity(tmp_path)
    documents, vectorizer = numbered(BATCH + 10), vectorizer_of(encoder)
    put, calls = engine.put, []

    def killed(generation, layout, entries):
        calls.append(len(entries))
        if len(calls) == 2:
            raise KeyboardInterrupt
        put(generation, layout, entries)

    def load():
        return load_index(engine, "resumed", lambda: documents, corpus=corpus, vectorizer=vectorizer)

    monkeypatch.setattr(engine, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        load()
    with pytest.raises(StaleIndex, match="there is no such index, or it was not loaded completely"):
        open_index(engine, "resumed")
    encoded = []
    encode = encoder.encode_documents
    monkeypatch.setattr(
        encoder, "encode_documents", lambda texts, **more: encoded.extend(texts) or encode(texts, **more)
    )
    loaded = load()
    assert loaded.loaded and calls == [BATCH, 10, 10] and len(encoded) == 7
    assert not load().loaded
    search = VectorSearch(open_index(engine, "resumed"), encoder)
    assert len(found(search, "tent 3", BATCH + 10)) == BATCH + 10
    assert engine.generations("resumed") == [loaded.generation]


def test_a_load_that_was_killed_after_it_was_published_leaves_nothing(engine, cluster, tmp_path, monkeypatch):
    def killed(_):
        raise KeyboardInterrupt

    def load(content):
        return load_index(engine, "products", lambda: PRODUCTS, corpus=identity(tmp_path, content), text=KEYS)

    load("first")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(engine, "drop", killed)
        load("second")
    assert len(cluster.indexes) == 2
    again = load("second")
    assert not again.loaded and list(cluster.indexes) == [again.generation]


def test_a_corpus_that_changes_while_it_is_loaded_leaves_the_old_index(engine, cluster, tmp_path, monkeypatch):
    first = load_index(engine, "products", lambda: PRODUCTS, corpus=identity(tmp_path, "first"), text=KEYS)
    second, put = identity(tmp_path, "second"), engine.put

    def changing(*stored):
        put(*stored)
        identity(tmp_path, "others")

    monkeypatch.setattr(engine, "put", changing)
    with pytest.raises(DataError, match="products: the corpus was changed while it was read"):
        load_index(engine, "products", lambda: PRODUCTS, corpus=second, text=KEYS)
    assert list(cluster.indexes) == [first.generation] == list(cluster.aliases.values())


def test_a_batch_that_the_engine_does_not_store_is_an_error(engine, monkeypatch):
    put = engine.put
    monkeypatch.setattr(engine, "put", lambda generation, layout, entries: put(generation, layout, entries[1:]))
    with pytest.raises(EngineError, match=r"document d0: the engine did not store 1 of 3 documents"):
        load_index(engine, "lossy", lambda: numbered(3), text=KEYS)


def test_the_record_of_a_moved_corpus_names_its_new_place(engine, tmp_path):
    def load(corpus):
        return load_index(engine, "moved", lambda: PRODUCTS, corpus=corpus, text=KEYS)

    first = load(identity(tmp_path, name="old.jsonl"))
    (tmp_path / "old.jsonl").unlink()
    moved = identity(tmp_path, name="new.jsonl")
    again = load(moved)
    assert not again.loaded and again.record == first.record.model_copy(update={"corpus": moved})
    assert found(TextSearch(open_index(engine, "moved")), "four") == ["p2"]
    (tmp_path / "new.jsonl").write_text("another")
    with pytest.raises(StaleIndex, match=r"new\.jsonl was changed after the index was loaded"):
        open_index(engine, "moved")
    (tmp_path / "new.jsonl").unlink()
    open_index(engine, "moved")  # not there, so nothing to compare with


def test_what_does_not_fit_is_refused_with_the_command(engine, encoder, tmp_path):
    vectorizer = vectorizer_of(encoder)
    load_index(
        engine, "shop", lambda: PRODUCTS, text=TextKeys(fields=FIELDS, analyzer="standard"), vectorizer=vectorizer
    )
    vectors, title = vectorizer.vectors.keys, TextKeys(fields=("title",), analyzer="english")
    other = vectors.model_copy(update={"encoder": FINGERPRINT.model_copy(update={"tensors": "1"})})
    adapted = vectors.model_copy(update={"adapter": {"a": "1"}})
    cases = [
        ({"text": TextKeys(fields=("colour",), analyzer="standard")}, "does not search 'colour'; its fields are"),
        ({"text": title}, "its analyser is .*, and english in the pipeline"),
        ({"vectors": other}, r"the encoder is another one \(tensors differ\)"),
        ({"vectors": adapted}, "no adapter is used, and one in the pipeline"),
        ({"vectors": vectors, "graph": Graph(16, 200)}, r"its search is exact, and by a graph \(m=16"),
        ({"filters": ["brand", "maker"]}, "names 'maker', which no document of the index has; fields: brand"),
    ]
    for arguments, says in cases:
        with pytest.raises(StaleIndex, match=f"shop: .*{says}.* searchlora index load CORPUS --pipeline p.yaml"):
            open_index(engine, "shop", pipeline="--pipeline p.yaml", **arguments)
    with pytest.raises(StaleIndex, match=r"there is no such index.*searchlora index load CORPUS --pipeline p"):
        open_index(engine, "nothing", pipeline="--pipeline p")
    load_index(engine, "words", lambda: PRODUCTS, corpus=identity(tmp_path), text=KEYS)
    with pytest.raises(StaleIndex, match=r"has no vectors.*index load .*corpus.jsonl --map text=name,description"):
        open_index(engine, "words", vectors=vectors)


@pytest.mark.parametrize(
    ("documents", "says"),
    [
        ([*PRODUCTS, PRODUCTS[0]], "two documents have the id 'p1'"),
        ([Document("a b", "x")], "cannot be used in a TREC file"),
        ([Document("\ud800", "x")], "cannot be used in a TREC file"),
        ([Document("a", " ")], "no document contains text"),
        (
            [Document("a", "x", metadata={"colour": "red"})],
            "no document has the field 'brand'. Fields: title, text, colour",
        ),
    ],
)
def test_a_collection_that_cannot_be_searched_is_refused_before_the_engine_is_asked(documents, says):
    with pytest.raises(DataError, match=says):
        load_index(object(), "never", lambda: documents, text=TextKeys(fields=FIELDS, analyzer=None))


def test_a_document_whose_vector_is_not_finite_is_named(encoder, monkeypatch):
    def encode(texts, **_):
        return np.array([[np.nan if "bad" in text else 1.0] for text in texts], dtype=np.float32)

    monkeypatch.setattr(encoder, "encode_documents", encode)
    documents = [Document("d1", "good"), Document("d2", " "), Document("d3", "bad"), Document("d4", "bad")]
    with pytest.raises(DataError, match="document d3: the encoder returns a vector that is not finite"):
        vectorizer_of(encoder).encode(documents)
