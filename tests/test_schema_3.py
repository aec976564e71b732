"""Adapters, datasets and evaluations stored by searchlora 0.1 (manifest schema 3) are readable.

`tests/fixtures/schema_3` holds tiny bases, one dataset and one adapter per built-in task, and two evaluations, all
written by that version and never written again.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from searchlora.adapters.store import Store
from searchlora.data.dataset import load_dataset

FIXTURE = Path(__file__).parent / "fixtures" / "schema_3"
TASKS = ("embedding", "intent", "judgment", "rag_answer", "rewriting")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the fixture, as the working directory: its manifests name their bases relative to it."""
    copied = shutil.copytree(FIXTURE, tmp_path / "old")
    monkeypatch.chdir(copied)
    return copied


@pytest.mark.parametrize("task", TASKS)
def test_dataset_loads(folder, task):
    dataset = load_dataset(folder / "datasets" / task)
    dataset.verify()
    assert {split: len(dataset.records(split)) for split in ("train", "validation", "test")} == {
        "train": 18,
        "validation": 6,
        "test": 6,
    }


def test_store_lists_and_shows(folder, cli):
    assert [entry.name for entry in Store(folder / "store").list()] == [f"old-{task}" for task in TASKS]
    shown = cli("adapters", "show", "old-rewriting@production", "--store", "store")
    assert shown.code == 0, shown.err
    assert "old-rewriting" in shown.out


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("task", TASKS)
def test_adapter_verifies_and_evaluates(cli, task):
    verified = cli("adapters", "verify", f"old-{task}", "--store", "store")
    assert verified.code == 0, verified.err
    evaluated = cli("evaluate", f"old-{task}", "--data", f"datasets/{task}", "--store", "store", "--out", "again")
    assert evaluated.code == 0, evaluated.err
    assert f"old-{task}@1" in evaluated.out


@pytest.mark.slow
@pytest.mark.parametrize("task", ["intent", "rewriting"])
def test_figures_equal_the_stored_ones(folder, cli, task):
    """The same outputs give the same figures: the old ones are read, or the same are computed again."""
    then = json.loads((folder / "evaluations" / task / "evaluation.json").read_text(encoding="utf-8"))
    called = cli("evaluate", f"old-{task}", "--data", f"datasets/{task}", "--store", "store", "--out", "again")
    assert called.code == 0, called.err
    now = json.loads((folder / "again" / "evaluation.json").read_text(encoding="utf-8"))

    def headline(results):
        return {
            (row["system"], row["measure"]): (row["value"], row["n"])
            for row in results["rows"]
            if row["measure"] in ("accuracy", "ROUGE-L", "invalid")
        }

    assert headline(then)
    assert headline(now) == headline(then)
