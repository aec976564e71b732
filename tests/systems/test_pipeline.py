"""The system that is a pipeline: its costs, what stays in memory, and errors in its topics."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import RowError
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.pipeline import build_pipeline
from searchlora.records import Document
from searchlora.systems import pipeline as systems
from searchlora.systems.measure import measure, run_system
from searchlora.systems.measures import RetrievalMeasures
from searchlora.systems.pipeline import PipelineSystem, Plan

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
