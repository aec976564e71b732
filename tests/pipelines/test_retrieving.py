"""Stages of a pipeline alone: retrieval, titles of a conversation, passages and their similarity."""

from __future__ import annotations

import numpy as np
import pytest

from searchlora.adapters.store import Store
from searchlora.errors import BaseModelError, PipelineError
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.pipeline import build_pipeline
from searchlora.prompts import messages
from searchlora.records import Document
from searchlora.retrieval import Analyzer, BM25Index, DenseIndex, Encoder, Fused, Source
from searchlora.retrieval.encoding import TextEncoding
from searchlora.retrieval.nearest import Hnsw
from searchlora.testing import build_tiny_encoder
from tests.factories import encoder_recipe_for, random_encoder_adapter, shout
from tests.pipelines.rewriting import Rewriter
from tests.pipelines.rewriting import built as rewriting

DOCUMENTS = [
    Document("d1", "waterproof boots size 9"),
    Document("d2", "a green tent"),
    Document("d3", "tent pegs"),
    Document("d4", "boots and tents"),
]
QUERIES = ["green tent", "9 boots", "stove"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    return str(build_tiny_encoder(tmp_path_factory.mktemp("encoders")))


@pytest.fixture
def built(tmp_path):
    def built(*stages, documents=DOCUMENTS, steps=None):
        more = {"steps": steps} if steps else {}
        return build_pipeline(
            "p", parse_stages(stages, "test"), store=Store(tmp_path / "store"), documents=documents, **more
        )

    return built


def searched(pipeline):
    return [found["hits"] for found in pipeline.execute([{"id": str(n), "query": q} for n, q in enumerate(QUERIES)])]


def test_bm25_stage_uses_its_settings(built):
    pipeline = built({"bm25": {"k": 2, "k1": 1.5, "b": 0.9, "shortest": 1, "stemmer": "english", "stopwords": None}})
    analyzer = Analyzer(stopwords=None, stemmer="english", shortest=1)
    assert searched(pipeline) == BM25Index(DOCUMENTS, k1=1.5, b=0.9, analyzer=analyzer).search(QUERIES, 2)
    assert searched(built({"bm25": {}})) != searched(built({"bm25": {"shortest": 1}}))
    assert pipeline.tag == "p_bm25(k=2,k1=1.5,b=0.9,stopwords=None,stemmer=english,shortest=1)"
    assert built({"bm25": {}}).tag == "p_bm25"


@pytest.mark.slow
def test_dense_stage_uses_its_settings(built, tiny):
    encoder = Encoder.load(tiny)
    pipeline = built({"dense": {"model": tiny, "k": 3}})
    assert searched(pipeline) == DenseIndex(DOCUMENTS, encoder).search(QUERIES, 3)
    assert pipeline.tag == "p_dense(encoder,k=3)"
    options = {"normalise": False, "query_prefix": "query: ", "document_prefix": "text: "}
    pipeline = built({"dense": {"model": tiny, "batch_size": 1, **options}})
    assert searched(pipeline) == DenseIndex(DOCUMENTS, encoder, TextEncoding(batch_size=1, **options)).search(
        QUERIES, 100
    )
    assert pipeline.tag == "p_dense(encoder,normalise=False,query_prefix=query:-,document_prefix=text:-)"


def test_fuse_stage_uses_its_settings(built, tiny):
    dense, bm25 = {"dense": {"model": tiny, "k": 3}}, {"bm25": {"k": 2}}
    pipeline = built({"fuse": {"method": "combsum", "k": 3, "weights": [2, 0.5], "of": [bm25, dense]}})
    sources = [Source(BM25Index(DOCUMENTS), 2, 2.0), Source(DenseIndex(DOCUMENTS, Encoder.load(tiny)), 3, 0.5)]
    assert searched(pipeline) == Fused(sources, method="combsum").search(QUERIES, 3)
    assert pipeline.tag == "p_combsum(bm25(k=2),dense(encoder,k=3),k=3,weights=2:0.5)"
    nested = built({"fuse": {"rrf_k": 1, "of": [bm25, {"fuse": {"of": [dense, bm25]}}]}})
    assert nested.tag == "p_rrf(bm25(k=2),rrf(dense(encoder,k=3),bm25(k=2)),rrf_k=1.0)"


def test_an_encoder_is_loaded_once_and_progress_is_reported(built, tiny, monkeypatch):
    loaded, reported = [], []
    load = Encoder.load
    monkeypatch.setattr(Encoder, "load", lambda name, **how: loaded.append(name) or load(name, **how))
    dense = {"dense": {"model": tiny}}

    def steps(name):
        reported.append(name)
        return lambda *_: None

    built({"fuse": {"of": [dense, dense, {"bm25": {}}]}}, dense, steps=steps)
    assert loaded == [tiny]
    assert reported == ["Encoding", "Indexing"]  # stages share an index


def test_documents_are_encoded_once_for_all_stages_with_the_same_vectors(built, tiny, monkeypatch):
    encoded = []
    encode = Encoder.encode_documents
    monkeypatch.setattr(
        Encoder, "encode_documents", lambda self, *given, **more: encoded.append(1) or encode(self, *given, **more)
    )
    stages = [{"dense": {"model": tiny, **more}} for more in ({}, {"k": 2}, {"query_prefix": "q: "}, {"index": "hnsw"})]
    together = searched(built({"fuse": {"of": stages}}))
    assert len(encoded) == 1
    alone = [DenseIndex(DOCUMENTS, Encoder.load(tiny)), DenseIndex(DOCUMENTS, Encoder.load(tiny), graph=Hnsw())]
    prefixed = alone[0].searched_by(alone[0].encoder, TextEncoding(query_prefix="q: "))
    sources = [
        Source(index, k) for index, k in zip((alone[0], alone[0], prefixed, alone[1]), (100, 2, 100, 100), strict=True)
    ]
    assert together == Fused(sources).search(QUERIES, 100)
    built({"fuse": {"of": [*stages, {"dense": {"model": tiny, "document_prefix": "d: "}}]}})
    assert len(encoded) == 5  # two by the test itself, and two different ones by the pipeline


def test_invalid_retrieval_stages_are_errors(built, tiny):
    for stage in ({"bm25": {}}, {"dense": {"model": tiny}}, {"fuse": {"of": [{"bm25": {}}]}}):
        with pytest.raises(PipelineError, match="no documents to search in"):
            built(stage, documents=[])
    with pytest.raises(BaseModelError, match=r"no base model 'nope'.*all-minilm-l6-v2"):
        built({"dense": {"model": "nope"}})


TITLED = [
    Document("d1", "a light green tent", "Tent"),
    Document("d2", "pegs for a tent", "Pegs"),
    Document("d3", "boots"),
]
TALK = {"id": "q", "query": "which pegs?", "history": [{"role": "user", "text": "a light green tent"}]}


def test_a_search_gets_the_titles_that_its_conversation_finds(built):
    pipeline = built({"titles": {"titles": 1}}, {"bm25": {"k": 3}}, documents=TITLED)
    (found, none) = pipeline.execute([TALK, {"id": "r", "query": "boots"}])
    assert found["titles"] == ["Tent"] and none["titles"] == []
    assert found["query"] == "which pegs?" and [hit.document for hit in found["hits"]] == ["d2"]
    assert "titles(10,1)" in pipeline.tag


def test_an_adapter_behind_it_reads_the_titles_before_the_query(built):
    titles = built({"titles": {}}, documents=TITLED).stages[0]
    rewrite = rewriting(Rewriter()).stages[0]
    (search,) = titles([TALK])
    (record,) = rewrite.task.records_from(search)
    text = messages(rewrite.task, record)[-1]["content"]
    assert text.splitlines()[-2:] == ["Titles: Tent; Pegs", "Query: which pegs?"]
    (without,) = rewrite.task.records_from({**search, "titles": []})
    assert "Titles" not in messages(rewrite.task, without)[-1]["content"]


def test_it_needs_documents(built):
    with pytest.raises(PipelineError, match="no documents"):
        built({"titles": {}}, documents=[])


def test_passages_are_the_texts_of_the_top_hits(built):
    pipeline = built({"bm25": {"k": 3}}, {"passages": {"k": 1}}, documents=TITLED)
    (found,) = pipeline.execute([{"id": "q", "query": "green tent"}])
    assert [hit.document for hit in found["hits"]] == ["d1", "d2"]
    best = found["hits"][0].score
    assert found["passages"] == [{"id": "d1", "title": "Tent", "text": "a light green tent", "score": best}]
    assert "passages(1)" in pipeline.tag


@pytest.mark.slow
def test_similarity_grades_each_passage_by_its_cosine_with_the_query(built, tiny):
    stage = {"similarity": {"model": tiny, "document_prefix": "passage: "}}
    pipeline = built({"bm25": {"k": 3}}, {"passages": {"k": 2}}, stage, documents=TITLED)
    found, other = pipeline.execute([{"id": "q", "query": "green tent"}, {"id": "r", "query": "boots and a tent"}])
    encoder = Encoder.load(tiny)
    for search in (found, other):
        texts = [
            f"passage: {passage['title']} {passage['text']}".replace(":  ", ": ") for passage in search["passages"]
        ]
        query, *passages = encoder.encode([search["query"], *texts])
        expected = [(1 + each @ query / np.linalg.norm(each) / np.linalg.norm(query)) / 2 for each in passages]
        assert [grade["id"] for grade in search["grades"]] == [passage["id"] for passage in search["passages"]]
        assert [grade["relevance"] for grade in search["grades"]] == pytest.approx(expected, abs=1e-5)
    assert "similarity(" in pipeline.labels[2]


@pytest.mark.slow
def test_similarity_encodes_passages_without_an_adapter_for_queries(built, tmp_path, encoder_base, monkeypatch):
    monkeypatch.setattr("tests.factories.encoder_recipe_for", lambda base: encoder_recipe_for(base, "sides=query"))
    store = Store(tmp_path / "store")
    asker = random_encoder_adapter(store, "asker", shout(tmp_path / "task"), encoder_base, tmp_path / "made", seed=1)
    stage = {"similarity": {"model": str(encoder_base.path), "adapter": "asker@1"}}
    search = {"id": "q", "query": "boots", "passages": [{"id": "d3", "text": "boots"}, {"id": "none", "text": ""}]}
    (found, empty) = built(stage, documents=TITLED).execute([search, {**search, "id": "r", "passages": []}])
    adapted, plain = (Encoder.load(str(encoder_base.path), adapter=each) for each in (asker, None))
    (query,), (passage,) = adapted.encode(["boots"]), plain.encode(["boots"])
    cosine = passage @ query / np.linalg.norm(passage) / np.linalg.norm(query)
    assert cosine < 0.99  # of the same text, which the adapter encodes as a query
    assert found["grades"][0] == {"id": "d3", "relevance": pytest.approx((1 + cosine) / 2, abs=1e-5)}
    assert empty["grades"] == []


def test_similarity_without_passages_is_refused(built, tiny):
    with pytest.raises(PipelineError, match="query q: there are no passages to grade"):
        built({"similarity": {"model": tiny}}, documents=TITLED).execute([{"id": "q", "query": "green tent"}])
