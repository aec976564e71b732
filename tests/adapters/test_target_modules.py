"""Groups of target modules in the architectures of transformers, on models of two blocks without weights."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from searchlora.adapters.attach import attach, new_adapter, save_adapter
from searchlora.adapters.target_modules import target_modules
from searchlora.errors import RecipeError
from searchlora.models.load import load_model
from tests.factories import recipe_for

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}

#: Architecture -> group -> the ends of the layers in a block.
LAYERS = {
    "llama": {
        "qv": {"q_proj", "v_proj"},
        "qkv": {"q_proj", "k_proj", "v_proj"},
        "attention": {"q_proj", "k_proj", "v_proj", "o_proj"},
        "mlp": {"gate_proj", "up_proj", "down_proj"},
    },
    "bert": {
        "qv": {"query", "value"},
        "qkv": {"query", "key", "value"},
        "attention": {"query", "key", "value", "attention.output.dense"},
        "mlp": {"intermediate.dense", "1.output.dense"},
    },
    "mpnet": {
        "qkv": {"q", "k", "v"},
        "attention": {"q", "k", "v", "o"},
        "mlp": {"intermediate.dense", "1.output.dense"},
    },
    "distilbert": {"qv": {"q_lin", "v_lin"}, "mlp": {"lin1", "lin2"}},
    "gpt_neox": {
        "qkv": {"query_key_value"},
        "attention": {"query_key_value", "attention.dense"},
        "mlp": {"dense_h_to_4h", "dense_4h_to_h"},
    },
    "modernbert": {"qkv": {"Wqkv"}, "attention": {"Wqkv", "attn.Wo"}, "mlp": {"Wi", "mlp.Wo"}},
}


def made(kind):
    more = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48} if kind == "distilbert" else SMALL
    config = AutoConfig.for_model(kind, **more)
    with torch.device("meta"):
        return (AutoModelForCausalLM if kind in ("llama", "gpt_neox") else AutoModel).from_config(config)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_group_is_resolved_in_each_architecture(kind):
    model = made(kind)
    for group, ends in LAYERS[kind].items():
        found = target_modules(model, group)
        second = [path for path in found if ".1." in path]
        assert len(second) == len(ends) and len(found) == 2 * len(ends), (group, found)
        assert all(any(path.endswith(f".{end}") or path.endswith(end) for end in ends) for path in second)


def test_a_fused_layer_has_no_qv():
    with pytest.raises(RecipeError, match=r"qv names no layer of this GPTNeoX.*all-linear"):
        target_modules(made("gpt_neox"), "qv")


def test_the_output_layer_is_refused(tiny_base):
    recipe = recipe_for(tiny_base, target_modules=["q_proj", "lm_head"])
    with pytest.raises(RecipeError, match=r"names the output layer.*Leave the output layer out"):
        new_adapter(load_model(tiny_base, precision="fp32"), recipe)


def test_an_adapter_of_a_group_is_saved_and_attached(tiny_base, tmp_path, group="mlp", layers=3):
    recipe = recipe_for(tiny_base, target_modules=group)
    model = new_adapter(load_model(tiny_base, precision="fp32"), recipe)
    blocks = model.config.num_hidden_layers
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == layers * blocks
    save_adapter(model, tmp_path / "a", recipe)
    again = attach(load_model(tiny_base, precision="fp32"), tmp_path / "a")
    assert sum("lora_A" in name for name, _ in again.named_parameters()) == layers * blocks


@pytest.mark.parametrize("target", ["qv", "attention", "mlp", "all-linear", ["q_proj"]])
def test_layers_of_a_vision_tower_are_not_targets(target):
    text = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 300}
    config = AutoConfig.for_model(
        "gemma3", text_config=text, vision_config={**SMALL, "image_size": 28, "patch_size": 14}
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert any("vision_tower" in path and path.endswith("q_proj") for path, _ in model.named_modules())
    found = target_modules(model, target)
    count = {"qv": 2, "attention": 4, "mlp": 3, "all-linear": 7}.get(str(target), 1)
    assert len(found) == 2 * count
    assert all(".language_model." in f".{path}" for path in found)
    with pytest.raises(RecipeError, match="= fc1 names no layer"):  # it is in the vision tower
        target_modules(model, ["q_proj", "fc1"])
