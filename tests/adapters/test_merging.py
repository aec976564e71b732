from __future__ import annotations

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file

from searchlora.adapters import merging
from searchlora.adapters.merging import export_merged
from searchlora.adapters.operations import store_adapter
from searchlora.errors import NameTaken, TamperedAdapter
from searchlora.models.load import load_model, load_tokenizer
from searchlora.models.resolve import resolve
from tests.child_scripts import run_script
from tests.factories import edit_weights, recipe_for, trained_adapter_folder


@pytest.mark.slow
def test_merging_writes_a_bf16_model_and_reports_the_numerical_change(stored, tmp_path):
    report = export_merged(stored, tmp_path / "out" / "merged")
    assert report.prompts == 2 and report.precision == "fp32"
    assert report.relative_error is not None and 0 < report.relative_error < 0.02
    assert report.effect_error is not None and report.effect_error < 0.1
    merged = resolve(str(tmp_path / "out" / "merged"))
    assert load_model(merged, to_write=True).dtype == torch.bfloat16
    assert all(each.dtype == torch.bfloat16 for each in load_file(merged.path / "model.safetensors").values())
    assert load_tokenizer(merged).chat_template
    reported = json.loads((merged.path / "merged.json").read_text())
    assert reported["adapter"] == "echo@1"
    assert (reported["settings"], reported["tuned"]) == (stored.manifest.settings, stored.manifest.tuned)
    assert all(str(tmp_path) not in file.read_text() for file in merged.path.glob("*.json"))


@pytest.mark.slow
def test_rslora_can_be_merged(store, base, task, tmp_path):
    folder = trained_adapter_folder(base, tmp_path / "a", variant="rslora")
    stored = store_adapter(store, "echo", folder, task=task, recipe=recipe_for(base, variant="rslora"), base=base)
    report = export_merged(stored, tmp_path / "merged")
    assert report.relative_error is not None and report.relative_error < 0.02


@pytest.mark.slow
def test_merging_uses_a_base_that_ran_no_forward_pass(stored, tmp_path, monkeypatch):
    from peft.tuners.lora import LoraModel

    passes: dict[int, int] = {}
    at_merge: list[int] = []

    def watched(*args, **kwargs):
        assert kwargs["quantization"] == "none"
        model = load_model(*args, **kwargs)
        passes[id(model)] = 0
        model.register_forward_pre_hook(lambda module, _: passes.__setitem__(id(module), passes[id(module)] + 1))
        return model

    original = LoraModel.merge_and_unload

    def merge_and_unload(self, *args, **kwargs):
        at_merge.append(passes[id(self.model)])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(merging, "load_model", watched)
    monkeypatch.setattr(LoraModel, "merge_and_unload", merge_and_unload)
    export_merged(stored, tmp_path / "merged")
    assert at_merge == [0]
    assert sum(passes.values()) > 0


def test_export_refuses_an_existing_folder_and_a_damaged_adapter(stored, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(NameTaken):
        export_merged(stored, tmp_path / "full")
    edit_weights(stored.path, lambda tensors: {name: value + 1 for name, value in tensors.items()})
    with pytest.raises(TamperedAdapter):
        export_merged(stored, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.slow
def test_export_takes_the_place_of_a_base_that_was_moved(cli, refused, store, trained, draft, base, tmp_path):
    moved = draft.model_copy(update={"base": draft.base.model_copy(update={"name": str(tmp_path / "gone")})})
    store.add("echo", trained, moved)
    export = ("adapters", "export", "echo", "--out", tmp_path / "merged", "--store", store.root)
    assert "gone" in refused(*export)
    assert cli(*export, "--base", base.path).code == 0
    assert (tmp_path / "merged" / "merged.json").is_file()


# An export in a process of its own: store, target, what does not fit on the disk.
FULL = """
import resource, signal, sys
from pathlib import Path
from searchlora.adapters import merging
from searchlora.adapters.attach import attach
from searchlora.adapters.peft_folder import read_config, read_weights, write_folder
from searchlora.adapters.store import Store
from searchlora.errors import StoreError

root, out, what = sys.argv[1:]
stored = Store(root).get("echo@1")
def fill():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
load_tokenizer = merging.load_tokenizer
def late(base):
    fill()
    return load_tokenizer(base)
try:
    if what == "model":
        fill()
    merging.load_tokenizer = late
    if what == "adapter":
        config, tensors = read_config(stored.path), read_weights(stored.path)
        fill()
        write_folder(Path(out), config, tensors)
    else:
        merging.export_merged(stored, Path(out))
except StoreError as error:
    print(type(error).__name__, error)
    sys.exit(error.exit_code)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("what", ["model", "tokenizer", "adapter"])
def test_a_full_disk_is_a_store_error(store, tmp_path, what):
    out = tmp_path / "out" / "merged"
    done = run_script(FULL, store.root, out, what)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("StoreError") and "cannot be written" in done.stdout and "too large" in done.stdout
    if what != "adapter":
        assert list(out.parent.iterdir()) == []


@pytest.mark.slow
def test_exporting_prints_nothing(stored, tmp_path, capfd):
    from transformers.utils import logging

    logging.enable_progress_bar()
    logging.set_verbosity_warning()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        export_merged(stored, tmp_path / "merged")
    assert capfd.readouterr() == ("", "")
