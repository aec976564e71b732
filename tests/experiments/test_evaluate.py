"""Inputs that `evaluate` refuses before any long work."""

from __future__ import annotations

import pytest

from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.errors import DataError
from searchlora.experiments.evaluate import evaluate
from searchlora.task import load_task
from tests.made import made_adapter
from tests.words import first_word


@pytest.mark.slow
def test_a_dataset_of_another_task_is_refused(tiny_base, tmp_path, monkeypatch):
    task, store = first_word(tmp_path / "task"), Store(tmp_path / "store")
    made_adapter(store, "one", task, tiny_base, tmp_path / "made", seed=1)
    rewriting = load_task("rewriting")
    data, source = tmp_path / "data", rewriting.folder / "examples.jsonl"
    build(rewriting, source, format="native", out=data, shares=(1.0, 0.0, 0.0))
    monkeypatch.setattr("searchlora.experiments.evaluate.load_task", lambda *_: task)
    with pytest.raises(DataError, match="is a dataset of the task 'rewriting', not of 'first-word'"):
        evaluate("one", data, split="train", store=store)
