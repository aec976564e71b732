"""Adapter stages that are independent of each other share batches, with the same results."""

from __future__ import annotations

from dataclasses import replace

import pytest

from searchlora.errors import EngineError, RequestRefused
from searchlora.inference.engine import ChoiceScores, Completion
from searchlora.inference.metered import MeteredEngine
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.pipelines.stages.stage import Stage
from searchlora.task import load_generation_task
from tests.pipelines.rewriting import searches

SCHEMA = {"type": "object", "properties": {"brand": {"type": "string"}}, "required": ["brand"]}


class Table:
    """An engine that answers by the adapter's name and the query, and keeps the adapters of each call."""

    engine_id = "table"

    def __init__(self, call_size: int = 8) -> None:
        self.call_size = call_size
        self.calls: list[list[str]] = []

    def pin(self, adapter):
        return adapter

    def generate(self, requests):
        self.calls.append([request.adapter for request in requests])
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        query = request.messages[-1]["content"].rpartition("Query: ")[2].strip()
        if request.adapter == "rewriter@1" and query == "too long":
            raise RequestRefused("does not fit")
        if query == "server":
            raise EngineError("the server does not answer")
        text = f'{{"brand": "{query} Ltd"}}' if request.adapter == "intent@1" else f"{query} rewritten"
        return Completion(text, "stop", 10, 5)

    def score(self, requests, choices, **_):
        self.calls.append([request.adapter for request in requests])
        return [ChoiceScores(tuple(-float(n) for n in range(len(each))), 10, len(each)) for each in choices]


def built(engine, order=("intent", "rewriter"), **policy):
    """A pipeline of an intent and a rewriting stage."""
    intent = load_generation_task("intent")
    tasks = {
        "intent": intent.bound({"kind": "object", "schema": SCHEMA}),
        "rewriter": load_generation_task("rewriting"),
    }
    settings = parse_stages([{"adapter": {"name": f"{name}@1", **policy}} for name in order], "here")
    return Pipeline("p", [AdapterStage(tasks[name], engine, f"{name}@1") for name in order], tuple(settings))


def test_an_intent_and_a_rewrite_share_a_batch_and_their_results_are_the_same():
    engine, rows = Table(), []
    pipeline = built(engine)
    done = pipeline.execute(searches("tent", "boots"), trace=rows.append)
    assert engine.calls == [["intent@1"] * 2 + ["rewriter@1"] * 2]
    assert [(each["intent"], each["query"]) for each in done] == [
        ({"brand": "tent Ltd"}, "tent rewritten"),
        ({"brand": "boots Ltd"}, "boots rewritten"),
    ]
    assert [row["flags"] for row in rows] == [[]] * 4  # computed, not looked up
    assert [row["tokens"] for row in rows] == [{"prompt": 10, "output": 5}] * 4
    assert all(row["milliseconds"] > 0 for row in rows)
    one_by_one = built(MeteredEngine(Table()))  # an engine that looks up answers is asked stage by stage
    assert one_by_one.execute(searches("tent", "boots")) == done
    assert engine.calls == [["intent@1"] * 2 + ["rewriter@1"] * 2]


def labelled(stage, labels, adapter="intent@1"):
    """The stage with an intent of labels, whose first is the likeliest."""
    return replace(stage, task=stage.task.bound({"kind": "label", "labels": labels}), adapter=adapter)


def test_stages_that_score_choices_share_a_batch():
    engine, rows = Table(), []
    intent, rewriter = built(engine).stages
    stages = [labelled(intent, ["buy", "help"]), labelled(intent, ["tents", "shoes"], "topic@1"), rewriter]
    done = Pipeline("p", stages).execute(searches("tent", "boots"), trace=rows.append)
    assert engine.calls == [["intent@1"] * 2 + ["topic@1"] * 2, ["rewriter@1"] * 2]
    assert [each["intent"].value for each in done] == ["tents"] * 2
    assert [each["query"] for each in done] == ["tent rewritten", "boots rewritten"]
    assert [row["flags"] for row in rows] == [[]] * 6
    assert [row["output"]["intent"]["value"] for row in rows if row["stage"] < 3] == ["buy", "tents"] * 2
    assert [row["tokens"] for row in rows if row["stage"] == 1] == [{"prompt": 10, "output": 2}] * 2
    alone = Pipeline("p", [replace(stage, engine=MeteredEngine(Table())) for stage in stages])
    assert alone.execute(searches("tent", "boots")) == done


@pytest.mark.parametrize(
    "case",
    ["the second reads the first", "a time budget", "calls that one stage fills", "two engines", "one scores"],
)
def test_other_stages_are_asked_one_after_the_other(case):
    engine = Table(2 if case == "calls that one stage fills" else 8)
    order = ("rewriter", "intent") if case == "the second reads the first" else ("intent", "rewriter")
    pipeline = built(engine, order, **({"budget_s": 30} if case == "a time budget" else {}))
    first, second = pipeline.stages
    if case == "two engines":
        pipeline = replace(pipeline, stages=[first, replace(second, engine=Table())])
    if case == "one scores":
        pipeline = replace(pipeline, stages=[labelled(first, ["buy", "help"]), second])
    pipeline.execute(searches("tent", "boots"))
    assert all(len(set(call)) == 1 for call in engine.calls)


def test_after_a_failure_each_stage_is_asked_for_itself():
    engine = Table()
    done = built(engine, on_failure="skip").execute(searches("tent", "too long"))
    assert [each["intent"]["brand"] for each in done] == ["tent Ltd", "too long Ltd"]
    assert [each["query"] for each in done] == ["tent rewritten", "too long"]
    assert [each.get("skipped") for each in done] == [None, {"rewriter@1": "does not fit."}]


def test_an_engine_that_cannot_be_asked_is_not_asked_again():
    with pytest.raises(EngineError, match="does not answer"):
        built(Table()).execute(searches("server"))
    engine, rows = Table(), []
    done = built(engine, on_failure="skip").execute(searches("server", "tent"), trace=rows.append)
    assert len(engine.calls) == 1
    assert [set(each["skipped"]) for each in done] == [{"intent@1", "rewriter@1"}] * 2
    assert [row["flags"] for row in rows] == [["skipped: the server does not answer."]] * 4


def test_stages_that_are_no_neighbours_are_not_mixed():
    engine = Table()
    pipeline = built(engine)
    first, second = pipeline.stages

    class Between(Stage):
        label = "between"

        def __call__(self, searches):
            return [{**search, "query": f"{search['query']} new"} for search in searches]

    (done,) = Pipeline("p", [first, Between(), second]).execute(searches("tent"))
    assert engine.calls == [["intent@1"], ["rewriter@1"]]
    assert (done["intent"], done["query"]) == ({"brand": "tent Ltd"}, "tent new rewritten")
