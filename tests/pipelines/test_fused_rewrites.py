"""A rewrite that is fused with the query: retrievers search with both."""

from __future__ import annotations

import pytest

from searchlora.inference.engine import Completion
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.records import Document
from tests.pipelines.rewriting import DOCUMENTS, Rewriter, built, searches


def test_a_rewrite_is_fused_with_the_query():
    pipeline = built(Rewriter(), {"rewrite": "fuse"})
    assert pipeline.labels[0] == "rewriter@3(rewrite=fuse)"
    both, same = pipeline.execute([{"id": "1", "query": "shelter"}, {"id": "2", "query": "tent"}])
    assert (both["query"], both["fused_queries"]) == ("tent", ("shelter", "tent"))
    assert [hit.document for hit in both["hits"]] == [hit.document for hit in same["hits"]]
    assert "fused_queries" not in same  # the rewrite is the query
    documents = [*DOCUMENTS, Document("d4", "shelter"), Document("d5", "a tent shelter")]
    rewrite, _ = pipeline.stages
    wider = Pipeline("p", [rewrite, pipeline.settings[1].over(documents)])
    (found,) = wider.execute(searches("shelter"))
    assert found["hits"][0].document == "d5"  # both queries find it
    assert found["hits"][0].score == pytest.approx(sum(1 / (60 + rank) for rank in _ranks(documents, "d5")))
    assert {hit.document for hit in found["hits"]} == {"d2", "d3", "d4", "d5"}
    (replaced,) = Pipeline("p", [AdapterStage(rewrite.task, Rewriter(), "r@3"), wider.stages[1]]).execute(
        searches("shelter")
    )
    assert {hit.document for hit in replaced["hits"]} == {"d2", "d3", "d5"}


def _ranks(documents, document):
    stage = parse_stages([{"bm25": {}}], "here")[0].over(documents)
    rankings = stage.retriever.search(["shelter", "tent"], 10)
    return [[hit.document for hit in hits].index(document) + 1 for hits in rankings]


def test_a_later_rewrite_replaces_the_one_that_was_fused():
    pipeline = built(Rewriter(), {"rewrite": "fuse"})
    rewrite, bm25 = pipeline.stages

    class Again(Rewriter):
        def generate(self, requests):
            return [Completion("boots", "stop", 10, 1) for _ in requests]

    second = AdapterStage(rewrite.task, Again(), "other@1")
    (found,) = Pipeline("p", [rewrite, second, bm25]).execute(searches("shelter"))
    assert found["fused_queries"] == ("shelter", "boots")
    assert [hit.document for hit in found["hits"]] == ["d1"]


def test_a_field_of_the_query_row_is_no_fusion():
    (found,) = Pipeline("p", built(Rewriter()).stages[1:]).execute([{"id": "1", "query": "tent", "queries": ["boots"]}])
    assert {hit.document for hit in found["hits"]} == {"d2", "d3"}
