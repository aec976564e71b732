"""The passages stage: texts of the top hits."""

from __future__ import annotations

import numpy as np
import pytest

from searchlora.adapters.store import Store
from searchlora.errors import PipelineError
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.pipeline import build_pipeline
from searchlora.records import Document
from searchlora.retrieval.encoder import Encoder
from searchlora.testing import build_tiny_encoder
from tests.factories import encoder_recipe_for, random_encoder_adapter, shout

DOCUMENTS = [Document("d1", "a green tent", "Tent"), Document("d2", "pegs for a tent"), Document("d3", "boots")]


def built(tmp_path, *stages):
    return build_pipeline("p", parse_stages(stages, "here"), store=Store(tmp_path), documents=DOCUMENTS)


def test_passages_are_the_texts_of_the_top_hits(tmp_path):
    pipeline = built(tmp_path, {"bm25": {"k": 3}}, {"passages": {"k": 1}})
    (found,) = pipeline.execute([{"id": "q", "query": "green tent"}])
    assert [hit.document for hit in found["hits"]] == ["d1", "d2"]
    best = found["hits"][0].score
    assert found["passages"] == [{"id": "d1", "title": "Tent", "text": "a green tent", "score": best}]
    assert "passages(1)" in pipeline.tag


@pytest.mark.slow
def test_similarity_grades_each_passage_by_its_cosine_with_the_query(tmp_path):
    folder = str(build_tiny_encoder(tmp_path / "encoder"))
    stage = {"similarity": {"model": folder, "document_prefix": "passage: "}}
    pipeline = built(tmp_path, {"bm25": {"k": 3}}, {"passages": {"k": 2}}, stage)
    found, other = pipeline.execute([{"id": "q", "query": "green tent"}, {"id": "r", "query": "boots and a tent"}])
    encoder = Encoder.load(folder)
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
def test_similarity_encodes_passages_without_an_adapter_for_queries(tmp_path, encoder_base, monkeypatch):
    monkeypatch.setattr("tests.factories.encoder_recipe_for", lambda base: encoder_recipe_for(base, "sides=query"))
    store = Store(tmp_path)
    asker = random_encoder_adapter(store, "asker", shout(tmp_path / "task"), encoder_base, tmp_path / "made", seed=1)
    stage = {"similarity": {"model": str(encoder_base.path), "adapter": "asker@1"}}
    search = {"id": "q", "query": "boots", "passages": [{"id": "d3", "text": "boots"}, {"id": "none", "text": ""}]}
    (found, empty) = built(tmp_path, stage).execute([search, {**search, "id": "r", "passages": []}])
    adapted, plain = (Encoder.load(str(encoder_base.path), adapter=each) for each in (asker, None))
    (query,), (passage,) = adapted.encode(["boots"]), plain.encode(["boots"])
    cosine = passage @ query / np.linalg.norm(passage) / np.linalg.norm(query)
    assert cosine < 0.99  # of the same text, which the adapter encodes as a query
    assert found["grades"][0] == {"id": "d3", "relevance": pytest.approx((1 + cosine) / 2, abs=1e-5)}
    assert empty["grades"] == []


def test_similarity_without_passages_is_refused(tmp_path):
    with pytest.raises(PipelineError, match="query q: there are no passages to grade"):
        folder = str(build_tiny_encoder(tmp_path / "encoder"))
        built(tmp_path, {"similarity": {"model": folder}}).execute([{"id": "q", "query": "green tent"}])
