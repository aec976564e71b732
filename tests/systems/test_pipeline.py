"""The system that is a pipeline: its costs, as a whole and by stage, its memory, and errors in its topics."""

from __future__ import annotations

import gc
import weakref
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import RowError
from searchlora.inference.engine import Completion, Request
from searchlora.inference.engines import Engines
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.pipeline import build_pipeline, run_of
from searchlora.records import Document
from searchlora.systems import pipeline as systems
from searchlora.systems.costs import Answers, CostedPipeline
from searchlora.systems.measure import measure, run_system
from searchlora.systems.measures import RetrievalMeasures
from searchlora.systems.pipeline import PipelineSystem, Plan, plan_of

ROWS = [{"id": "q1", "query": "tent"}, {"id": "q2", "query": "boot"}]
MEASURES = RetrievalMeasures({"q1": {"d1": 1}, "q2": {"d2": 1}}, ["MRR@10"])
STAGES = parse_stages([{"bm25": {"k": 5}}], "pipeline")
DOCUMENTS = [Document("d1", "red tent"), Document("d2", "blue boot")]


@pytest.fixture
def system(tmp_path):
    """A function that makes a system by BM25 of a name, whose `building` is called when its pipeline is built."""
    store = Store(tmp_path / "store")

    def made(name, building=lambda _: None, **more):
        def build(plan):
            built = build_pipeline(plan.pipeline, STAGES, store=store, documents=DOCUMENTS)
            building(built)
            return built

        return PipelineSystem(name, Plan("plain", STAGES, name), build, store, **more)

    return made


def test_building_a_pipeline_is_no_cost_of_a_query(system, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(systems, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def building(_):
        clock[0] += 60

    assert run_system(system("ours", building), ROWS, MEASURES).raw.costs == {"ms per query": 0}


def test_one_pipeline_at_a_time_is_in_memory(system):
    built = []

    def building(pipeline):
        gc.collect()
        assert [earlier() for earlier in built] == [None] * len(built)
        built.append(weakref.ref(pipeline))

    measure([system("ours", building), system("theirs", building)], ROWS, MEASURES, candidate="ours")
    assert len(built) == 2


def test_a_history_that_is_none_is_refused_with_the_file_and_the_topic(system):
    rows = [*ROWS, {"id": "q3", "query": "both", "history": "hello"}]
    with pytest.raises(RowError, match=r"topics\.jsonl, topic q3"):
        run_system(system("ours", topics=Path("topics.jsonl")), rows, MEASURES)


SHOP = [Document(f"d{n}", text) for n, text in enumerate(["red couch", "green tent", "red tent", "blue lamp"])]
SEARCHES = [{"id": "q1", "query": "red tent"}, {"id": "q2", "query": "green couch"}]
INNER = {"fuse": {"k": 3, "of": [{"bm25": {"k": 3, "b": 0}}]}}


@pytest.mark.parametrize("second", [{"bm25": {"k": 3, "b": 0}}, INNER])
def test_a_pipeline_measured_stage_by_stage_finds_what_it_finds_by_itself(tmp_path, second):
    stages = parse_stages([{"fuse": {"of": [{"bm25": {"k": 3}}, second]}}, {"passages": {"k": 2}}], "x")
    build = partial(build_pipeline, store=Store(tmp_path), documents=SHOP)
    plan = plan_of("x", stages, Engines(Store(tmp_path)), None)
    system = CostedPipeline("x", plan, lambda plan: build("x", plan.stages), Store(tmp_path), answers=Answers())
    found = system.run(SEARCHES)
    assert found.run == run_of(build("x", stages).execute(SEARCHES))
    assert found.parts.keys() == {"0", "0.0", "0.1.0" if second is INNER else "0.1", "1"}
    assert found.parts["0"]["ms per query"] > found.parts["0.0"]["ms per query"] > 0
    assert found.costs["ms per query"] == pytest.approx(sum(found.parts[key]["ms per query"] for key in ("0", "1")))


class Echo:
    engine_id, call_size = "echo", 2

    def generate(self, requests):
        return [Completion(request.messages[-1]["content"], "stop", 10, 3) for request in requests]


def test_pipelines_with_the_same_answers_ask_once():
    engine, answers = Echo(), Answers()
    first, second = answers.metered(engine), answers.metered(engine)
    request = Request(({"role": "user", "content": "a"},))
    assert first.generate([request]) == second.generate([request])
    assert (first.reused, second.reused, second.prompt_tokens) == (0, 1, 10)
    assert answers.metered(Echo()).reused == 0
