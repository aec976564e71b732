"""QLoRA on real weights: the repacking fault of 4-bit bases on CPUs does not affect training."""

from __future__ import annotations

import math
import shutil

import pytest
import torch

from searchlora.adapters.attach import new_adapter
from searchlora.cpu.fused_model import fused_model
from searchlora.experiments.validation import Validator
from searchlora.inference.local import LocalEngine
from searchlora.models.load import load_model
from searchlora.models.resolve import resolve
from searchlora.recipe import load_recipe
from searchlora.task import load_generation_task
from searchlora.training.metrics import read_metrics
from searchlora.training.sft import train_adapter

pytestmark = pytest.mark.slow

WORDS = [("kicks", "running shoes"), ("brolly", "umbrella"), ("torch", "flashlight"), ("couch", "sofa")]
RECORDS = [
    {"id": f"r{n}", "group": f"g{n}", "query": f"{colour} {WORDS[n % 4][0]}", "rewrite": f"{colour} {WORDS[n % 4][1]}"}
    for n, colour in enumerate(["red", "blue", "green", "black", "white", "grey", "pink", "brown"] * 4)
]
OVERRIDES = ["optim.max_steps=6", "optim.batch_size=2", "validation.every_steps=3", "validation.rows=2"]
OVERRIDES += ["validation.generate_rows=2", "max_new_tokens=8"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    task, base = load_generation_task("rewriting"), resolve("smollm2-135m-instruct-q4_1")
    recipe = load_recipe(task.default_recipe, overrides=OVERRIDES)
    validator = Validator(task, LocalEngine(base), RECORDS[:2])
    plain = train_adapter(task, recipe, base, RECORDS, folder / "plain")
    validated = train_adapter(task, recipe, base, RECORDS, folder / "validated", validate=validator)
    return plain, validated


def losses(run, key="loss"):
    return [line[key] for line in read_metrics(run.folder / "metrics.jsonl") if key in line]


def test_validation_changes_no_gradient(runs):
    plain, validated = runs
    assert losses(plain) == losses(validated)


def test_training_reduces_the_loss_on_real_weights(runs):
    plain, validated = runs
    assert losses(plain)[-1] < losses(plain)[0] / 2
    validation = losses(validated, "validation_loss")
    assert validation[-1] < validation[0]


def test_the_fast_path_has_the_losses_of_peft(tmp_path, monkeypatch):
    """In fp32, over three seeds. In bf16 both are as far from that by rounding; `benchmarks.training` compares them."""
    task, base = load_generation_task("rewriting"), resolve("smollm2-135m-instruct-q4_1")

    def losses_of(seed, way):
        overrides = ["method=lora", "precision=fp32", f"seed={seed}", "optim.max_steps=2", "optim.batch_size=2"]
        recipe = load_recipe(task.default_recipe, overrides=overrides)
        return losses(train_adapter(task, recipe, base, RECORDS, tmp_path / f"{way} {seed}"))

    fast = [losses_of(seed, "fast") for seed in range(3)]
    monkeypatch.setattr("searchlora.cpu.backend.fused_model", lambda *_, **__: None)
    peft = [losses_of(seed, "peft") for seed in range(3)]
    assert [len(each) for each in fast] == [2, 2, 2]
    assert fast != peft  # two implementations
    for found, expected in zip(fast, peft, strict=True):
        assert found == pytest.approx(expected, abs=0.01)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on the path")
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_whatever_the_seed_the_layers_are_fused(method):
    """The gradients of two rows are compared first; in bf16, their rounding depends on the seed of A."""
    recipe = load_recipe({"method": method})
    loaded = load_model(resolve(recipe.base), quantization=recipe.quantization, precision=recipe.precision)
    model = new_adapter(loaded, recipe).train()
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    for each in trained.values():
        each.data = each.data.float()
    for seed in range(3):
        torch.manual_seed(seed)
        for name, each in trained.items():
            if "lora_A" in name:
                torch.nn.init.kaiming_uniform_(each, a=math.sqrt(5))  # as PEFT does
        assert fused_model(model) is not None
