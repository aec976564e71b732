"""Batches that are chosen for a number of tokens per step."""

from __future__ import annotations

import json

import pytest

from searchlora.data.building import build
from searchlora.errors import TrainingError
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import _job, train
from searchlora.models.configuration import read_configuration
from searchlora.progress import no_progress
from searchlora.prompts import Example
from searchlora.recipe import load_recipe
from searchlora.training.memory import PROCESS_BYTES, TrainedModel, batch_size
from searchlora.training.step_choice import StepChoice, choose_step, read_choice, write_choice
from searchlora.training.token_rows import TokenRows


@pytest.mark.slow
def test_batches_fill_the_memory_and_then_layers_are_computed_twice(tiny_base):
    rows = TokenRows(Example(tuple(range(5, 105 + row % 3)), 60) for row in range(64))
    config = read_configuration(str(tiny_base.path))
    recipe = load_recipe({}, overrides=["method=lora", "optim.tokens_per_step=2424"])
    model, batch = TrainedModel(config, recipe, "cuda"), batch_size(rows, 16)

    def peak(number: int, checkpointing: bool) -> int:
        several = model.with_optim(gradient_checkpointing=checkpointing, gradient_accumulation=2)
        return int(several.memory(batch.with_rows(number)).peak / 0.9) + 1000

    def choice(free: int) -> StepChoice:
        return choose_step(model, rows, free + PROCESS_BYTES)

    assert choice(10**10) == StepChoice(24, 1, False)
    assert choice(peak(8, False)) == StepChoice(8, 3, False)
    assert choice(peak(7, False)) == StepChoice(6, 4, False)
    assert choice(peak(2, False)).gradient_checkpointing
    assert choice(peak(1, True)) == StepChoice(1, 24, True)
    with pytest.raises(TrainingError, match=r"1 rows of 102 tokens need .* GB with gradient checkpointing"):
        choice(peak(1, True) // 2)
    said = StepChoice(8, 3, False).sentence(101.2)
    assert said.startswith("A step trains on 24 rows of 101 tokens on average: 3 batches of 8 rows, without gradient")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_chosen_step_fits_with_the_gradients_that_accumulation_keeps(tiny_base, method):
    rows = TokenRows(Example(tuple(range(5, 45)), 30) for _ in range(64))
    recipe = load_recipe({}, overrides=[f"method={method}", "optim.tokens_per_step=1280"])
    model, batch = TrainedModel(read_configuration(str(tiny_base.path)), recipe, "cuda"), batch_size(rows, 16)
    whole = model.memory(batch.with_rows(32)).peak
    least = model.memory(batch.with_rows(4)).peak
    seen = set()
    for limit in (least, (least + whole) // 2, whole):
        choice = choose_step(model, rows, int(limit / 0.9) + PROCESS_BYTES + 1000)
        chosen = TrainedModel(model.config, choice.applied(recipe), "cuda")
        assert chosen.memory(batch.with_rows(choice.batch_size)).peak <= limit + 1000
        seen.add(choice.gradient_accumulation > 1)
    assert seen == {True, False}


def test_several_processes_train_by_pytorch(tiny_base):
    model = TrainedModel(read_configuration(str(tiny_base.path)), load_recipe({}), "cpu", processes=2)
    assert model.fused is None


def test_a_choice_is_read_as_it_was_written(tmp_path):
    assert read_choice(tmp_path) is None
    write_choice(tmp_path, StepChoice(4, 2, True))
    assert read_choice(tmp_path) == StepChoice(4, 2, True)


@pytest.mark.slow
def test_a_run_trains_with_what_was_chosen_and_keeps_it_when_resumed(tiny_base, tmp_path, monkeypatch):
    source = tmp_path / "rows.jsonl"
    rows = [{"id": f"r{n}", "group": f"g{n}", "query": f"{n} kicks", "rewrite": f"{n} shoes"} for n in range(12)]
    source.write_text("".join(json.dumps({**row, "split": "train"}) + "\n" for row in rows), encoding="utf-8")
    build("rewriting", source, format="native", out=tmp_path / "data")
    settings = ("method=lora", "optim.tokens_per_step=2000", "optim.max_steps=2", "lora.r=2")
    options, said = TrainingOptions(settings, str(tiny_base.path)), []
    stored = train("rewriting", tmp_path / "data", "r", options, store=tmp_path / "store", log=said.append)
    chosen = StepChoice(**stored.manifest.training["step"])
    assert chosen.batch_size > 1 and any("batches of" in sentence for sentence in said)
    assert stored.manifest.recipe["optim"]["tokens_per_step"] == 2000

    job = _job("rewriting", tmp_path / "data", options, None, str(tmp_path / "store"), no_progress)
    resolved = job.resolve_recipe(tmp_path, False, 1)
    assert resolved == chosen.applied(job.recipe)
    monkeypatch.setattr("searchlora.experiments.train.free_memory", lambda *_: 10_000)
    assert job.resolve_recipe(tmp_path, True, 1) == resolved
    with pytest.raises(TrainingError, match=r"optim.tokens_per_step: 1 rows of"):
        job.resolve_recipe(tmp_path, False, 1)
