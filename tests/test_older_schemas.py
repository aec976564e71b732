"""Adapters, datasets and evaluations with manifest schemas 3 (searchlora 0.1) and 4 are readable.

`tests/fixtures/schema_3` holds tiny bases, one dataset and one adapter per built-in task, and two evaluations;
`schema_4` two adapters on the same bases, whose recipes have `quantization` or `full` in place of `method`. All were
written by those versions and are never written again.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from searchlora.adapters.operations import merge
from searchlora.adapters.store import Store
from searchlora.data.dataset import load_dataset
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import train

FIXTURES = Path(__file__).parent / "fixtures"
TASKS = ("embedding", "intent", "judgment", "rag_answer", "rewriting")
ADAPTERS = [*(("store", task) for task in TASKS), ("store_4", "rewriting"), ("store_4", "embedding")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the fixtures, as the working directory: manifests name their bases relative to it."""
    copied = shutil.copytree(FIXTURES / "schema_3", tmp_path / "old")
    shutil.copytree(FIXTURES / "schema_4" / "store", copied / "store_4")
    monkeypatch.chdir(copied)
    return copied


@pytest.mark.parametrize("task", TASKS)
def test_a_dataset_loads(folder, task):
    dataset = load_dataset(folder / "datasets" / task)
    dataset.verify()
    assert [len(dataset.records(split)) for split in ("train", "validation", "test")] == [18, 6, 6]


def test_the_store_lists_and_shows(folder, cli):
    assert [entry.name for entry in Store(folder / "store").list()] == [f"old-{task}" for task in TASKS]
    shown = cli("adapters", "show", "old-rewriting@production", "--store", "store")
    assert shown.code == 0, shown.err
    assert "old-rewriting" in shown.out


def headline(file):
    return {
        (row["system"], row["measure"]): (row["value"], row["n"])
        for row in json.loads(file.read_text(encoding="utf-8"))["rows"]
        if row["measure"] in ("accuracy", "ROUGE-L", "invalid")
    }


@pytest.mark.slow
@pytest.mark.parametrize(("store", "task"), ADAPTERS)
def test_an_adapter_verifies_and_gives_the_figures_of_then(folder, cli, store, task):
    verified = cli("adapters", "verify", f"old-{task}", "--store", store)
    assert verified.code == 0, verified.err
    evaluated = cli("evaluate", f"old-{task}", "--data", f"datasets/{task}", "--store", store, "--out", "again")
    assert evaluated.code == 0, evaluated.err
    assert f"old-{task}@1" in evaluated.out
    if store == "store" and task in ("intent", "rewriting"):
        then = headline(folder / "evaluations" / task / "evaluation.json")
        assert then and headline(folder / "again" / "evaluation.json") == then


@pytest.mark.parametrize(("name", "old", "method"), [("rewriting", "nf4", "qlora"), ("embedding", False, "lora")])
def test_the_method_is_read_from_the_old_key(folder, name, old, method):
    manifest = Store(folder / "store_4").get(f"old-{name}").manifest
    assert manifest.schema_version == 4 and "method" not in manifest.recipe
    assert manifest.recipe["quantization" if name == "rewriting" else "full"] == old
    assert manifest.method == method


@pytest.mark.slow
def test_an_adapter_is_reused_where_only_the_key_changed(folder):
    """The recipe in its manifest equals today's but for `method` and keys that did not exist then."""
    store, said = Store(folder / "store_4"), list[str]()
    short = ["optim.max_steps=6", "optim.batch_size=4", "validation.every_steps=6"]
    overrides = ["base=encoder", "lora.r=4", "method=lora", *short]
    options = TrainingOptions(overrides=overrides, reuse=True)
    stored = train("embedding", "datasets/embedding", "old-embedding", options, store=store, log=said.append)
    assert stored.reference == "old-embedding@1" and "Reusing" in said[0]


@pytest.mark.slow
def test_adapters_can_be_combined(folder):
    both = merge(["old-rewriting", "old-rewriting@1"], "both", store=folder / "store_4")
    assert both.manifest.recipe["method"] == "qlora" and both.manifest.schema_version == 5
    assert json.loads((both.path / "adapter_config.json").read_text())["r"] == 8
