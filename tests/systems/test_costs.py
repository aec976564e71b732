"""A pipeline whose stages are measured one by one finds what the pipeline finds by itself."""

from __future__ import annotations

from functools import partial

import pytest

from searchlora.adapters.store import Store
from searchlora.inference.engine import Completion, Request
from searchlora.inference.engines import Engines
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.pipeline import build_pipeline, run_of
from searchlora.records import Document
from searchlora.systems.costs import Answers, CostedPipeline
from searchlora.systems.pipeline import plan_of

DOCUMENTS = [Document(f"d{n}", text) for n, text in enumerate(["red couch", "green tent", "red tent", "blue lamp"])]
ROWS = [{"id": "q1", "query": "red tent"}, {"id": "q2", "query": "green couch"}]
INNER = {"fuse": {"k": 3, "of": [{"bm25": {"k": 3, "b": 0}}]}}


@pytest.mark.parametrize("second", [{"bm25": {"k": 3, "b": 0}}, INNER])
def test_a_pipeline_measured_stage_by_stage_finds_what_it_finds_by_itself(tmp_path, second):
    stages = parse_stages([{"fuse": {"of": [{"bm25": {"k": 3}}, second]}}, {"passages": {"k": 2}}], "x")
    build = partial(build_pipeline, store=Store(tmp_path), documents=DOCUMENTS)
    plan = plan_of("x", stages, Engines(Store(tmp_path)), None)
    system = CostedPipeline("x", plan, lambda plan: build("x", plan.stages), Store(tmp_path), answers=Answers())
    found = system.run(ROWS)
    assert found.run == run_of(build("x", stages).execute(ROWS))
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
