"""Adapter stages get the engine that their manifest requires."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from searchlora.adapters.operations import Origin, store_adapter
from searchlora.adapters.store import Store
from searchlora.inference.answer_cache import AnswerCache
from searchlora.inference.engine import Request
from searchlora.inference.settings import ServerSettings
from searchlora.pipelines.pipeline import build_pipeline
from searchlora.pipelines.stages.adapter import AdapterSettings
from searchlora.prompts import messages
from searchlora.task import load_generation_task
from tests.factories import first_word, random_adapter, random_adapter_folder


@pytest.fixture
def task(tmp_path, monkeypatch):
    task = first_word(tmp_path / "task")
    monkeypatch.setattr("searchlora.task.load_task", lambda *_: task)
    return task


@pytest.fixture
def store(tiny_base, tmp_path, task):
    store = Store(tmp_path / "store")
    random_adapter(store, "one", task, tiny_base, tmp_path / "made", seed=1)
    return store


@pytest.mark.slow
def test_adapters_of_one_base_share_an_engine_unless_they_differ_in_precision(tiny_base, tmp_path, task):
    store = Store(tmp_path / "store")
    for seed, precision in enumerate(("bf16", "fp32", "bf16"), start=1):
        folder, recipe = random_adapter_folder(tiny_base, tmp_path / f"made{seed}", seed, (f"precision={precision}",))
        store_adapter(store, "one", folder, task=task, recipe=recipe, base=tiny_base)
    stages = [AdapterSettings(name=f"one@{version}") for version in (1, 2, 3)]
    first, second, third = (stage.engine for stage in build_pipeline("p", stages, store=store, documents=[]).stages)
    assert [first.precision, second.precision] == ["bf16", "fp32"]
    assert third is first


@pytest.mark.slow
def test_a_zero_shot_stage_answers_as_the_base_model_to_the_same_prompt(store, task):
    stages = [AdapterSettings(name="one", max_new_tokens=4, zero_shot=bare) for bare in (False, True)]
    adapted, bare = build_pipeline("p", stages, store=store, documents=[]).stages
    assert (adapted.label, bare.label) == ("one@1", "base(first-word)")
    assert bare.engine is adapted.engine
    record = {"id": "r", "group": "r", "text": "tent boot"}
    (expected,) = bare.engine.generate([Request(messages(task, record), None, 4)])
    assert [output.raw for output in bare.ask([record])] == [expected.text]
    assert [output.raw for output in adapted.ask([record])] != [expected.text]


@pytest.mark.slow
def test_cached_answers_are_those_of_the_same_weights(tiny_base, tmp_path, task, store):
    random_adapter(store, "one", task, tiny_base, tmp_path / "made2", seed=2)
    settings = [
        AdapterSettings(name="one@1"),
        AdapterSettings(name="one@2"),
        AdapterSettings(name="one@2", zero_shot=True),
    ]
    searches = [{"id": text, "group": text, "query": text, "text": text} for text in ("tent", "axe")]

    def built(cache=None):
        return build_pipeline("p", settings, store=store, documents=[], cache=cache)

    def answers(pipeline):
        rows: list[Mapping[str, Any]] = []
        pipeline.execute(searches, trace=rows.append)
        return [[*map(_without_flag, row["requests"])] for row in rows], [row["flags"].count("cached") for row in rows]

    expected, cached = answers(built())
    assert not any(cached) and all(expected)
    first, cached = answers(built(AnswerCache(tmp_path / "answers.db")))
    assert first == expected and not any(cached)
    again, cached = answers(built(AnswerCache(tmp_path / "answers.db")))
    assert again == expected and cached == [1] * 6


def _without_flag(request):
    return {key: value for key, value in request.items() if key != "cached"}


@pytest.mark.slow
def test_a_zero_shot_stage_renders_with_the_options_of_its_adapter(tiny_base, tmp_path, task):
    store = Store(tmp_path / "store")
    folder, recipe = random_adapter_folder(tiny_base, tmp_path / "made", 1, ("prompt.date=2020-02-29",))
    store_adapter(store, "one", folder, task=task, recipe=recipe, base=tiny_base)
    stages = [AdapterSettings(name="one", zero_shot=bare) for bare in (False, True)]
    adapted, bare = build_pipeline("p", stages, store=store, documents=[]).stages
    assert bare.engine.renderer.options.date == "2020-02-29" != adapted.engine.renderer.options.date
    server = AdapterSettings(name="one", zero_shot=True, engine=ServerSettings(url="http://a"))
    (asked,) = build_pipeline("p", [server], store=store, documents=[]).stages
    assert asked.engine.renderer.options.date == "2020-02-29"


@pytest.mark.slow
def test_values_tuned_for_the_adapter_are_not_those_of_its_base(tiny_base, tmp_path):
    store, judgment = Store(tmp_path / "store"), load_generation_task("judgment")
    folder, recipe = random_adapter_folder(tiny_base, tmp_path / "made", 1)
    task = judgment.bound(judgment.settings_of({"grades": "2"}, ()))
    store_adapter(
        store, "judge", folder, task=task, recipe=recipe, base=tiny_base, origin=Origin(tuned={"temperature": 3.0})
    )
    own = {"first_stage_weight": 0.5}
    stages = [AdapterSettings(name="judge", zero_shot=bare, tuned=own) for bare in (False, True)]
    adapted, bare = build_pipeline("p", stages, store=store, documents=[]).stages
    assert (adapted.task.tuned, bare.task.tuned) == ({"temperature": 3.0, **own}, own)
