"""QLoRA on real weights: the fault of 4-bit bases on CPUs, and that training here does not fall into it."""

from __future__ import annotations

import pytest

from searchlora.experiments.evaluate import prompted
from searchlora.experiments.validation import Validator
from searchlora.inference.local import LocalEngine
from searchlora.models.resolve import resolve
from searchlora.recipe import load_recipe
from searchlora.training.run import train_adapter
from searchlora.training.watch import read_metrics

pytestmark = pytest.mark.slow

WORDS = [("kicks", "running shoes"), ("brolly", "umbrella"), ("torch", "flashlight"), ("couch", "sofa")]
RECORDS = [
    {"id": f"r{n}", "group": f"g{n}", "query": f"{colour} {WORDS[n % 4][0]}", "rewrite": f"{colour} {WORDS[n % 4][1]}"}
    for n, colour in enumerate(["red", "blue", "green", "black", "white", "grey", "pink", "brown"] * 4)
]
OVERRIDES = ["optim.max_steps=8", "optim.batch_size=8", "validation.every_steps=4", "validation.rows=8"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    task, base = prompted("rewriting"), resolve("smollm2-135m-instruct-q4_1")
    recipe = load_recipe(task.default_recipe, overrides=OVERRIDES)
    validator = Validator(task, LocalEngine(base), RECORDS[:8])
    plain = train_adapter(task, recipe, base, RECORDS, folder / "plain")
    validated = train_adapter(task, recipe, base, RECORDS, folder / "validated", validate=validator)
    return plain, validated


def losses(run, key="loss"):
    return [line[key] for line in read_metrics(run.folder / "metrics.jsonl") if key in line]


def test_validation_changes_no_gradient(runs):
    plain, validated = runs
    assert losses(plain) == losses(validated)


def test_the_adapter_learns(runs):
    plain, validated = runs
    assert losses(plain)[-1] < losses(plain)[0] / 2
    validation = losses(validated, "validation_loss")
    assert validation[-1] < validation[0]
