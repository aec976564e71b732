"""The passages stage: texts of the top hits."""

from __future__ import annotations

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import PipelineError
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.pipeline import build_pipeline
from searchlora.records import Document

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


def test_passages_before_any_hit_are_refused(tmp_path):
    with pytest.raises(PipelineError, match="query q: there are no hits"):
        built(tmp_path, {"passages": {"k": 1}}).execute([{"id": "q", "query": "green tent"}])
