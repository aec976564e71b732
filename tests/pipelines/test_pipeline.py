"""The pipeline: stages in order, and invalid outputs kept as invalid."""

from __future__ import annotations

import pytest

from searchlora.errors import PipelineError
from searchlora.inference.engine import Completion
from searchlora.outputs import InvalidOutput
from searchlora.pipelines.config import bm25_settings
from searchlora.pipelines.pipeline import Pipeline, run_of
from searchlora.pipelines.results import result
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.records import Document
from searchlora.task import load_task

DOCUMENTS = [Document("d1", "waterproof boots"), Document("d2", "a green tent"), Document("d3", "tent pegs")]


class Scripted:
    """An engine with scripted completions; the real one is tested in `tests/inference`."""

    call_size = 1

    def __init__(self, answers: dict[str, tuple[str, str]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def pin(self, adapter):
        return adapter

    def generate(self, requests):
        found = []
        for request in requests:
            prompt = request.messages[-1]["content"]
            self.asked.append(prompt)
            text, finish = self.answers[prompt.rpartition("Query: ")[2]]
            found.append(Completion(text, finish, 10, 3))
        return found

    def score(self, requests, choices):
        raise NotImplementedError


@pytest.fixture
def pipeline():
    engine = Scripted({"kicks": ("boots", "stop"), "shelter": ("", "stop"), "tent": ("tent tent tent", "length")})
    stage = AdapterStage(load_task("rewriting"), engine, "shop-rewriter@3")
    return Pipeline("two", [stage, bm25_settings(k=10).over(DOCUMENTS)])


def test_the_rewritten_query_is_searched(pipeline):
    (found,) = pipeline.execute([{"id": "1", "query": "kicks"}])
    assert found["query"] == "boots"
    assert found["outputs"] == {"rewriting": ["boots"]}
    assert [hit.document for hit in found["hits"]] == ["d1"]


def test_an_invalid_output_is_kept_and_the_original_query_is_searched(pipeline):
    empty, cut = pipeline.execute([{"id": "1", "query": "shelter"}, {"id": "2", "query": "tent"}])
    assert empty["outputs"]["rewriting"] == [InvalidOutput("", "empty")]
    assert empty["query"] == "shelter"
    assert empty["hits"] == []
    assert isinstance(cut["outputs"]["rewriting"][0], InvalidOutput)
    assert cut["query"] == "tent"
    assert {hit.document for hit in cut["hits"]} == {"d2", "d3"}


def test_an_invalid_output_is_told_after_a_later_stage_of_the_same_task(pipeline):
    rewrite, bm25 = pipeline.stages
    second = AdapterStage(rewrite.task, Scripted({"shelter": ("tent", "stop")}), "other@1")
    search = {"id": "1", "query": "shelter"}
    (found,) = Pipeline("p", [rewrite, second, bm25]).execute([search])
    assert (found["query"], found["outputs"]) == ("tent", {"rewriting": ["tent"]})
    assert result(search, found, pipeline.labels)["invalid"] == {"rewriting": ["empty"]}


def test_the_run_contains_every_topic_and_its_tag_the_pinned_version(pipeline):
    done = pipeline.execute([{"id": "1", "query": "kicks"}, {"id": "2", "query": "shelter"}])
    assert run_of(done).keys() == {"1", "2"}
    assert pipeline.tag == "two_shop-rewriter@3_bm25(k=10)"


def test_results_do_not_depend_on_batches(pipeline):
    searches = [{"id": str(n), "query": ("kicks", "tent", "shelter")[n % 3]} for n in range(7)]
    assert pipeline.execute(searches, batch=2) == pipeline.execute(searches)


def test_the_conversation_reaches_the_prompt(pipeline):
    history = [{"role": "user", "text": "show me boots"}]
    pipeline.execute([{"id": "1", "query": "kicks", "history": history}])
    assert "User: show me boots" in pipeline.stages[0].engine.asked[0]


@pytest.mark.parametrize(
    ("searches", "says"),
    [
        ([{"query": "x"}], "query 1: has no 'id'"),
        ([{"id": "1"}], "query 1: has no 'query'"),
        ([{"id": "1", "query": "x"}, {"id": "2\ud800", "query": "x"}], "query 2: 'id': a text holds a lone surrogate"),
        ([{"id": "1", "query": "\udcff"}], "query 1: 'query': a text holds a lone surrogate"),
        ([{"id": "1", "query": "x"}, {"id": 1, "query": "y"}], "query 2: the id '1' is repeated"),
    ],
)
def test_invalid_searches_are_errors(pipeline, searches, says):
    with pytest.raises(PipelineError, match=says):
        pipeline.execute(searches)
