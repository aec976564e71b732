from __future__ import annotations

import json

import pytest
import torch

from searchlora.adapters.attach import attach, new_adapter, save_adapter
from searchlora.adapters.peft_folder import CONFIG
from searchlora.errors import LoadCheckFailed, MissingKey, NameTaken, RecipeError, UnexpectedKey
from searchlora.models.load import load_model
from tests.factories import edit_weights, recipe_for, train_a_little

IDS = torch.arange(3, 43)[None]


def logits(model):
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits.float()
    return found


def fresh(base):
    return load_model(base, precision="fp32")


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["lora", "rslora"])
def test_a_saved_adapter_on_the_original_base_is_the_trained_model(base, tmp_path, variant):
    recipe = recipe_for(base, variant=variant)
    model = train_a_little(new_adapter(fresh(base), recipe))
    save_adapter(model, tmp_path / "a", recipe)
    again = attach(fresh(base), tmp_path / "a")
    assert (logits(again) - logits(model)).abs().max() < 1e-5
    assert (logits(again) - logits(fresh(base))).abs().max() > 1e-3


def test_target_modules_that_the_base_lacks_are_named(base):
    with pytest.raises(RecipeError, match="no_such_proj"):
        new_adapter(fresh(base), recipe_for(base, target_modules=["no_such_proj"]))


def test_a_stored_peft_folder_contains_no_local_path(base, trained):
    from peft import PeftModel

    model = PeftModel.from_pretrained(fresh(base), trained)
    assert torch.equal(logits(model), logits(attach(fresh(base), trained)))
    config = (trained / CONFIG).read_text()
    assert json.loads(config)["base_model_name_or_path"] == "tiny"
    assert str(base.path.parent) not in config


def test_adapters_stay_fp32_on_a_bf16_base(base, trained):
    from safetensors.torch import load_file

    model = attach(load_model(base), trained)
    own = dict(model.named_parameters())
    for key, tensor in load_file(trained / "adapter_model.safetensors").items():
        assert torch.equal(own[key.replace(".weight", ".default.weight")], tensor)


def test_attaching_activates_the_adapter_freezes_the_base_and_keeps_the_random_state(base, trained):
    model = attach(fresh(base), trained, "one")
    second = attach(model, trained, "two")
    assert second is model and second.active_adapter == "two"
    assert not any(parameter.requires_grad for parameter in model.parameters())
    torch.manual_seed(5)
    attach(fresh(base), trained)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))


def test_an_attached_adapter_name_is_not_overwritten(base, trained):
    model = attach(fresh(base), trained, "one")
    with pytest.raises(NameTaken, match="'one'"):
        attach(model, trained, "one")


def test_missing_unexpected_and_misshapen_keys_are_errors(base, writable):
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    edit_weights(writable, lambda tensors: {name: value for name, value in tensors.items() if name != key})
    with pytest.raises(MissingKey, match=r"q_proj\.lora_A"):
        attach(fresh(base), writable)
    edit_weights(writable, lambda tensors: {**tensors, key: torch.ones(4, 7)})
    with pytest.raises(UnexpectedKey, match=r"\(4, 7\).*\(4, 32\)"):
        attach(fresh(base), writable)
    edit_weights(writable, lambda tensors: {**tensors, key: torch.ones(4, 32), "base_model.x.lora_A.weight": IDS})
    with pytest.raises(UnexpectedKey, match=r"base_model\.x"):
        attach(fresh(base), writable)


@pytest.mark.slow
def test_a_refused_adapter_leaves_the_model_unchanged(base, trained, writable):
    edit_weights(writable, lambda tensors: dict(list(tensors.items())[1:]))
    model = fresh(base)
    before = logits(model)
    with pytest.raises(MissingKey):
        attach(model, writable)
    assert torch.equal(logits(model), before)
    model = attach(model, trained, "good")
    with pytest.raises(MissingKey):
        attach(model, writable, "bad")
    assert list(model.peft_config) == ["good"]
    assert torch.equal(logits(model), logits(attach(fresh(base), trained)))


@pytest.mark.parametrize(
    "setting",
    [
        {"init_lora_weights": "pissa"},
        {"modules_to_save": ["lm_head"]},
        {"megatron_config": {"a": 1}},
        {"bias": "all"},
        {"alora_invocation_tokens": [5]},
        {"use_dora": True},
    ],
)
def test_a_configuration_beyond_plain_lora_is_refused(base, writable, setting):
    file = writable / CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **setting}))
    with pytest.raises(LoadCheckFailed, match=next(iter(setting))):
        attach(fresh(base), writable)


def test_a_pickle_is_never_read(base, writable):
    (writable / "adapter_model.safetensors").rename(writable / "adapter_model.bin")
    with pytest.raises(MissingKey, match="safetensors"):
        attach(fresh(base), writable)


def test_every_lora_variant_of_peft_is_supported_or_refused():
    from dataclasses import fields

    from peft import LoraConfig

    from searchlora.adapters import peft_folder

    marked = {field.name for field in fields(LoraConfig) if field.metadata.get("is_lora_variant")}
    assert marked <= peft_folder._REFUSED.keys()
