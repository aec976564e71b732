"""`adapters path`: a folder that PEFT's AutoPeftModel loads, without a change of the stored version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from searchlora import adapters
from searchlora.adapters import views
from searchlora.adapters.attach import attach
from searchlora.adapters.peft_folder import CONFIG, WEIGHTS
from searchlora.adapters.store import StoredAdapter
from searchlora.adapters.stored import check_hashes
from searchlora.adapters.views import link_file, peft_folder
from searchlora.errors import BaseMismatch, BaseModelError
from searchlora.models.load import load_model
from searchlora.models.resolve import BaseModel


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 20)[None]).logits  # type: ignore[operator, no-any-return]


@pytest.mark.slow
def test_auto_peft_model_loads_the_printed_folder(cli, stored, store, base):
    from peft import AutoPeftModelForCausalLM

    before = {file.name: file.read_bytes() for file in stored.path.iterdir()}
    called = cli("adapters", "path", "echo", "--store", store.root, "--base", base.path)
    assert called.code == 0, called.err
    folder = Path(called.out.strip())
    assert folder.is_absolute() and called.out.count("\n") == 1
    loaded = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = logits(attach(load_model(base, precision="fp32"), stored))
    assert torch.equal(logits(loaded), expected)
    assert not torch.equal(expected, logits(load_model(base, precision="fp32")))
    assert {file.name: file.read_bytes() for file in stored.path.iterdir()} == before
    check_hashes(stored)


def test_a_second_call_gives_the_same_folder_and_a_dead_link_is_made_again(stored, store, base):
    first = adapters.path("echo@1", base=str(base.path), store=store)
    assert adapters.path("echo@1", base=str(base.path), store=store) == first
    (first / WEIGHTS).unlink()
    assert adapters.path("echo@1", base=str(base.path), store=store) == first
    assert (first / WEIGHTS).read_bytes() == (stored.path / WEIGHTS).read_bytes()
    assert [folder.name for folder in first.parent.iterdir()] == [first.name]


def test_two_processes_may_make_the_same_view_at_once(stored, store, base, monkeypatch):
    made = []

    def late(source, target):
        if not made:
            made.append(None)
            made.append(adapters.path("echo@1", base=str(base.path), store=store))
        link_file(source, target)

    monkeypatch.setattr(views, "link_file", late)
    assert adapters.path("echo@1", base=str(base.path), store=store) == made[1]
    assert (made[1] / WEIGHTS).read_bytes() == (stored.path / WEIGHTS).read_bytes()
    assert [folder.name for folder in made[1].parent.iterdir()] == [made[1].name]


def test_a_base_from_the_hub_needs_no_view(stored, base, tmp_path):
    version = tmp_path / "hub" / "1"
    shutil.copytree(stored.path, version)
    config = json.loads((version / CONFIG).read_text(encoding="utf-8"))
    (version / CONFIG).unlink()
    (version / CONFIG).write_text(
        json.dumps({**config, "base_model_name_or_path": "org/tiny", "revision": "a" * 40}), encoding="utf-8"
    )
    from_hub = BaseModel("org/tiny", base.path, revision="a" * 40)
    assert peft_folder(StoredAdapter(version, stored.manifest), from_hub) == version
    other = peft_folder(StoredAdapter(version, stored.manifest), BaseModel("org/tiny", base.path, revision="b" * 40))
    named = json.loads((other / CONFIG).read_text(encoding="utf-8"))
    assert (named["base_model_name_or_path"], named["revision"]) == (str(base.path), None)


@pytest.mark.slow
@pytest.mark.usefixtures("stored")
def test_of_base_prints_the_folder_of_the_base(cli, refused, store, base, other_base):
    place = ("echo", "--of", "base", "--store", store.root)
    assert cli("adapters", "path", *place, "--base", base.path).out == f"{base.path}\n"
    assert "was trained on" in refused("adapters", "path", *place, "--base", other_base.path)


@pytest.mark.usefixtures("stored")
def test_another_base_is_refused_and_a_missing_one_is_named(store, other_base, tmp_path):
    with pytest.raises(BaseMismatch, match="was trained on"):
        adapters.path("echo", base=str(other_base.path), store=store)
    with pytest.raises(BaseModelError, match="no base model"):
        adapters.path("echo", base="nowhere", store=store)
    assert not (tmp_path / "cache" / "peft").exists()


def test_the_commit_of_a_base_from_the_hub_is_saved(base, tmp_path):
    from searchlora.adapters.attach import new_adapter, save_adapter
    from tests.factories import recipe_for

    recipe = recipe_for(base)
    save_adapter(new_adapter(load_model(base, precision="fp32"), recipe), tmp_path / "a", recipe, "c" * 40)
    assert json.loads((tmp_path / "a" / CONFIG).read_text(encoding="utf-8"))["revision"] == "c" * 40
