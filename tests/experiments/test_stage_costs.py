"""Stages that pipelines have in common: executed once, requests answered once, tokens and time counted."""

from __future__ import annotations

from collections import Counter

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import EngineError
from searchlora.experiments.stage_costs import Cost, MeteredRetriever, SharedStages
from searchlora.inference.engine import ChoiceScores, Completion, Request
from searchlora.inference.metered import MeteredEngine
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.pipeline import build_pipeline, run_of
from searchlora.progress import silent
from searchlora.records import Document
from searchlora.retrieval.bm25 import BM25Index


class Echo:
    """An engine that answers with the last message, and counts what it is asked."""

    engine_id, call_size = "echo", 2

    def __init__(self):
        self.asked = Counter()

    def pin(self, adapter):
        return adapter

    def generate(self, requests):
        self.asked.update(request.messages[-1]["content"] for request in requests)
        return [Completion(request.messages[-1]["content"], "stop", 10, 3) for request in requests]

    def score(self, requests, choices, *, prune_margin=None):
        del prune_margin
        self.asked.update(request.messages[-1]["content"] for request in requests)
        return [ChoiceScores(tuple(-float(len(each)) for each in of), 10, len(of)) for of in choices]


def asked(text, **more):
    return Request(({"role": "user", "content": text},), **more)


def test_equal_requests_are_answered_once_and_their_tokens_count_each_time():
    inner, answers = Echo(), {}
    first = MeteredEngine(inner, answers)
    assert [each.text for each in first.generate([asked("a"), asked("b"), asked("a")])] == ["a", "b", "a"]
    assert [each.text for each in first.generate([asked("b", keep_prefix=True)])] == ["b"]
    assert inner.asked == {"a": 1, "b": 1}
    assert (first.prompt_tokens, first.output_tokens, first.reused) == (40, 12, 0)
    second = MeteredEngine(inner, answers)
    assert [each.text for each in second.generate([asked("b"), asked("c")])] == ["b", "c"]
    assert (inner.asked, second.reused, second.prompt_tokens) == ({"a": 1, "b": 1, "c": 1}, 1, 20)


@pytest.mark.parametrize("more", [{"adapter": "x@1"}, {"max_new_tokens": 3}, {"answer_prefix": "p"}, {"stop": (".",)}])
def test_a_request_that_differs_is_another_request(more):
    inner, answers = Echo(), {}
    MeteredEngine(inner, answers).generate([asked("a")])
    other = MeteredEngine(inner, answers)
    other.generate([asked("a", **more)])
    assert (inner.asked["a"], other.reused) == (2, 0)


def test_scores_are_kept_by_their_choices():
    inner, answers = Echo(), {}
    engine = MeteredEngine(inner, answers)
    (one,) = engine.score([asked("a")], [["x", "yy"]], prune_margin=8.0)
    assert one.log_probabilities == (-1.0, -2.0)
    engine.score([asked("a"), asked("a")], [["x", "yy"], ["x"]], prune_margin=8.0)
    assert inner.asked["a"] == 2
    assert (engine.prompt_tokens, engine.output_tokens) == (30, 5)
    engine.generate([asked("a")])
    assert inner.asked["a"] == 3


def test_a_retriever_repeats_no_call():
    documents = [Document("d1", "red couch"), Document("d2", "green tent")]
    index, found = BM25Index(documents), {}
    first, second = MeteredRetriever(index, found), MeteredRetriever(index, found)
    hits = first.search(["red", "tent"], 5)
    assert (first.reused, first.seconds > 0) == (0, True)
    assert second.search(["red", "tent"], 5) == hits
    assert (second.reused, second.seconds) == (1, 0.0)
    assert second.search(["red", "tent"], 1) == [each[:1] for each in hits]
    assert second.seconds > 0


def test_costs_add_up_and_unknown_time_stays_unknown():
    assert Cost(1.0, 10, 2) + Cost(0.5, 5) == Cost(1.5, 15, 2)
    assert (Cost(1.0) + Cost(None, 3)).seconds is None
    assert Cost(2.0, 40, 10).per(10) == {
        "ms per query": 200.0,
        "prompt tokens per query": 4.0,
        "output tokens per query": 1.0,
    }
    assert Cost(None, 0).per(10) == {}


DOCUMENTS = [Document(f"d{n}", text) for n, text in enumerate(["red couch", "green tent", "red tent", "blue lamp"])]
SEARCHES = [{"id": "q1", "query": "red tent"}, {"id": "q2", "query": "green couch"}]
FUSED = parse_stages([{"fuse": {"of": [{"bm25": {"k": 3}}, {"bm25": {"k": 3, "b": 0}}]}}, {"passages": {"k": 2}}], "x")
SHALLOW = [FUSED[0], FUSED[1].model_copy(update={"k": 1})]
SINGLE = [FUSED[0].model_copy(update={"of": FUSED[0].of[:1]}), FUSED[1]]


def alone(stages, tmp_path):
    return build_pipeline("x", stages, store=Store(tmp_path), documents=DOCUMENTS).execute(SEARCHES)


def test_pipelines_with_the_same_stages_execute_them_once_and_equal_each_by_itself(tmp_path, monkeypatch):
    calls = []
    search = BM25Index.search
    monkeypatch.setattr(BM25Index, "search", lambda self, *more: calls.append(id(self)) or search(self, *more))
    shared = SharedStages([FUSED, SHALLOW, SINGLE], store=Store(tmp_path), documents=lambda: DOCUMENTS)
    found = {}
    for name, stages in (("fused", FUSED), ("shallow", SHALLOW), ("single", SINGLE)):
        done, costs = shared.execute(stages, SEARCHES, silent)
        shared.finish(stages)
        found[name] = done, costs
    assert len(calls) == len(set(calls)) == 2
    for name, stages in (("fused", FUSED), ("shallow", SHALLOW), ("single", SINGLE)):
        expected = alone(stages, tmp_path)
        assert run_of(found[name][0]) == run_of(expected), name
        assert [each["passages"] for each in found[name][0]] == [each["passages"] for each in expected]
    assert found["fused"][1].keys() == {(0,), (0, 0), (0, 1), (1,)}
    assert found["fused"][1][0, 0].seconds > 0
    assert found["shallow"][1][0,] == found["fused"][1][0,]  # the same execution, so the same measurement
    assert found["single"][1][0,].seconds is None  # a part of it was reused
    assert (
        shared.pipeline("x", FUSED).labels
        == build_pipeline("x", FUSED, store=Store(tmp_path), documents=DOCUMENTS).labels
    )


def test_a_failure_is_skipped_as_the_stage_says(tmp_path, monkeypatch):
    def broken(self, queries, k):
        del self, k
        raise EngineError(f"index lost for {len(queries)} queries")

    monkeypatch.setattr(BM25Index, "search", broken)
    strict = parse_stages([{"bm25": {"k": 3}}, {"passages": {"k": 2}}], "x")
    lenient = [strict[0].model_copy(update={"on_failure": "skip"}), strict[1]]
    shared = SharedStages([lenient, strict], store=Store(tmp_path), documents=lambda: DOCUMENTS)
    done, costs = shared.execute(lenient, SEARCHES, silent)
    assert done == alone(lenient, tmp_path)
    assert [each["skipped"] for each in done] == [{"bm25(k=3)": "index lost for 2 queries."}] * 2
    assert costs.keys() == {(0,), (1,)}
    with pytest.raises(EngineError, match="index lost"):
        shared.execute(strict, SEARCHES, silent)


def test_results_that_no_later_pipeline_needs_are_forgotten(tmp_path):
    shared = SharedStages([FUSED, SHALLOW], store=Store(tmp_path), documents=lambda: DOCUMENTS)
    shared.execute(FUSED, SEARCHES, silent)
    assert len(shared._done) == 2
    shared.finish(FUSED)
    assert len(shared._done) == 1
    shared.execute(SHALLOW, SEARCHES, silent)
    shared.finish(SHALLOW)
    assert not shared._done
