"""The stage `titles`: what the whole conversation finds, for a rewriting adapter behind it."""

from __future__ import annotations

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import PipelineError
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.pipeline import build_pipeline
from searchlora.prompts import messages
from searchlora.records import Document
from tests.pipelines.rewriting import Rewriter
from tests.pipelines.rewriting import built as rewriting

DOCUMENTS = [
    Document("d1", "a light green tent", "Tent"),
    Document("d2", "pegs for a tent", "Pegs"),
    Document("d3", "boots"),
]
TALK = {"id": "q", "query": "which pegs?", "history": [{"role": "user", "text": "a light green tent"}]}


def built(tmp_path, *stages, documents=DOCUMENTS):
    return build_pipeline("p", parse_stages(stages, "here"), store=Store(tmp_path), documents=documents)


def test_a_search_gets_the_titles_that_its_conversation_finds(tmp_path):
    pipeline = built(tmp_path, {"titles": {"titles": 1}}, {"bm25": {"k": 3}})
    (found, none) = pipeline.execute([TALK, {"id": "r", "query": "boots"}])
    assert found["titles"] == ["Tent"] and none["titles"] == []
    assert found["query"] == "which pegs?" and [hit.document for hit in found["hits"]] == ["d2"]
    assert "titles(10,1)" in pipeline.tag


def test_an_adapter_behind_it_reads_the_titles_before_the_query(tmp_path):
    titles = built(tmp_path, {"titles": {}}).stages[0]
    rewrite = rewriting(Rewriter()).stages[0]
    (search,) = titles([TALK])
    (record,) = rewrite.task.records_from(search)
    text = messages(rewrite.task, record)[-1]["content"]
    assert text.splitlines()[-2:] == ["Titles: Tent; Pegs", "Query: which pegs?"]
    (without,) = rewrite.task.records_from({**search, "titles": []})
    assert "Titles" not in messages(rewrite.task, without)[-1]["content"]


def test_it_needs_documents(tmp_path):
    with pytest.raises(PipelineError, match="no documents"):
        built(tmp_path, {"titles": {}}, documents=())
