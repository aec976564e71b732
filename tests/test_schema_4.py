"""Adapters with manifest schema 4, whose recipes have `quantization` or `full` in place of `method`, are read.

`tests/fixtures/schema_4` holds two adapters written by the last version with that schema, on the bases and datasets of
`schema_3`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from searchlora.adapters.operations import merge
from searchlora.adapters.store import Store
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import train

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Copies of the fixtures, as the working directory: manifests name their bases relative to it."""
    copied = tmp_path / "old"
    for part in ("base", "encoder", "datasets"):
        shutil.copytree(FIXTURES / "schema_3" / part, copied / part)
    shutil.copytree(FIXTURES / "schema_4" / "store", copied / "store")
    monkeypatch.chdir(copied)
    return copied


@pytest.mark.parametrize(("name", "old", "method"), [("rewriting", "nf4", "qlora"), ("embedding", False, "lora")])
def test_the_method_is_read_from_the_old_key(folder, name, old, method):
    manifest = Store(folder / "store").get(f"old-{name}").manifest
    assert manifest.schema_version == 4 and "method" not in manifest.recipe
    assert manifest.recipe["quantization" if name == "rewriting" else "full"] == old
    assert manifest.method == method


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["rewriting", "embedding"])
def test_an_old_adapter_verifies_and_evaluates(cli, name):
    verified = cli("adapters", "verify", f"old-{name}", "--store", "store")
    assert verified.code == 0, verified.err
    evaluated = cli("evaluate", f"old-{name}", "--data", f"datasets/{name}", "--store", "store", "--out", "again")
    assert evaluated.code == 0, evaluated.err
    assert f"old-{name}@1" in evaluated.out


@pytest.mark.slow
def test_an_old_adapter_is_reused_where_only_the_key_changed(folder):
    """The recipe in its manifest equals today's but for `method` and keys that did not exist then."""
    store, said = Store(folder / "store"), list[str]()
    overrides = ["base=base", "optim.max_steps=3", "lora.r=4", "optim.batch_size=4", "method=qlora"]
    stored = train(
        "rewriting",
        "datasets/rewriting",
        "old-rewriting",
        TrainingOptions(overrides=overrides, reuse=True),
        store=store,
        log=said.append,
    )
    assert stored.reference == "old-rewriting@1" and "Reusing" in said[0]


@pytest.mark.slow
def test_old_adapters_can_be_combined(folder):
    store = Store(folder / "store")
    both = merge(["old-rewriting", "old-rewriting@1"], "both", store=store)
    assert both.manifest.recipe["method"] == "qlora" and both.manifest.schema_version == 5
    assert json.loads((both.path / "adapter_config.json").read_text())["r"] == 8
