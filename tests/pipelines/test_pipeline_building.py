"""Adapter stages get the engine that their manifest requires."""

from __future__ import annotations

import pytest

from searchlora.adapters.operations import store_adapter
from searchlora.adapters.store import Store
from searchlora.pipelines.config import AdapterSettings
from searchlora.pipelines.pipeline import build_pipeline
from tests.made import made_adapter, made_folder
from tests.words import first_word


@pytest.mark.slow
def test_adapters_of_one_base_share_an_engine_unless_they_differ_in_precision(tiny_base, tmp_path, monkeypatch):
    task, store = first_word(tmp_path / "task"), Store(tmp_path / "store")
    monkeypatch.setattr("searchlora.task.load_task", lambda *_: task)
    for seed, precision in enumerate(("bf16", "fp32", "bf16"), start=1):
        folder, recipe = made_folder(tiny_base, tmp_path / f"made{seed}", seed, (f"precision={precision}",))
        store_adapter(store, "one", folder, task=task, recipe=recipe, base=tiny_base)
    stages = [AdapterSettings(name=f"one@{version}") for version in (1, 2, 3)]
    first, second, third = (stage.engine for stage in build_pipeline("p", stages, store=store, documents=[]).stages)
    assert [first.precision, second.precision] == ["bf16", "fp32"]
    assert third is first


def test_text_after_a_scored_choice_can_be_disabled(tiny_base, tmp_path, monkeypatch):
    task, store = first_word(tmp_path / "task"), Store(tmp_path / "store")
    monkeypatch.setattr("searchlora.task.load_task", lambda *_: task)
    made_adapter(store, "one", task, tiny_base, tmp_path / "made", seed=1)
    stages = [AdapterSettings(name="one"), AdapterSettings(name="one", rest=False)]
    assert [stage.rest for stage in build_pipeline("p", stages, store=store, documents=[]).stages] == [True, False]
