from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file

from searchlora.adapters import merging
from searchlora.adapters.attach import attach
from searchlora.adapters.merging import combine_folders, export_merged
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.peft_folder import CONFIG
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
@pytest.mark.parametrize("variant", ["rslora", "dora"])
def test_every_lora_variant_can_be_merged(store, base, task, tmp_path, variant):
    folder = trained_adapter_folder(base, tmp_path / "a", variant=variant)
    stored = store_adapter(store, "echo", folder, task=task, recipe=recipe_for(base, variant=variant), base=base)
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


@pytest.fixture(scope="module")
def pair(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return [trained_adapter_folder(base, folder / f"{seed}", seed=seed, variant="rslora") for seed in (1, 2)]


def with_ranks_of_its_own(adapter, folder):
    """A copy in which one layer has half the rank, as PEFT's `rank_pattern` allows."""
    shutil.copytree(adapter, folder)
    module = "model.layers.0.self_attn.q_proj"
    config = json.loads((folder / CONFIG).read_text())
    config |= {"rank_pattern": {module: 2}, "alpha_pattern": {module: config["lora_alpha"] / 2}}
    (folder / CONFIG).write_text(json.dumps(config))

    def halved(tensors):
        a, b = (f"base_model.model.{module}.lora_{factor}.weight" for factor in "AB")
        return {**tensors, a: tensors[a][:2].contiguous(), b: tensors[b][:, :2].contiguous()}

    edit_weights(folder, halved)
    return folder


@pytest.mark.slow
def test_layers_with_ranks_of_their_own_keep_them_in_a_combination(base, tmp_path):
    one = with_ranks_of_its_own(trained_adapter_folder(base, tmp_path / "whole"), tmp_path / "one")
    combine_folders([one, one], [0.25, 0.75], tmp_path / "sum")
    ids = torch.arange(4, 40)[None]
    with torch.no_grad():
        wanted, found = (
            attach(load_model(base, precision="fp32"), each)(ids).logits for each in (one, tmp_path / "sum")
        )
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.slow
def test_a_combination_equals_that_of_peft(base, pair, tmp_path):
    from peft import PeftModel, get_peft_model_state_dict

    model = PeftModel.from_pretrained(load_model(base, precision="fp32"), pair[0], "one")
    model.load_adapter(pair[1], "two")
    model.add_weighted_adapter(["one", "two"], [0.3, -0.6], "both", combination_type="cat")
    wanted = get_peft_model_state_dict(model, adapter_name="both", save_embedding_layers=False)
    combine_folders(pair, [0.3, -0.6], tmp_path / "both")
    found = load_file(tmp_path / "both" / "adapter_model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.allclose(found[key], wanted[key], atol=1e-6) for key in found)
    # PEFT leaves use_rslora on, which scales the sum by √r; ours has the scaling in the factors.
    assert json.loads((tmp_path / "both" / CONFIG).read_text())["use_rslora"] is False
