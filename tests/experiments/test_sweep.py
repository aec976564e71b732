"""Sweeps on tiny models: the grid, resuming, failed trials, and the comparison."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import RecipeError, TrainingError, UsageError
from searchlora.experiments import sweep as sweeps
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.sweep import COSTS, planned, sweep
from tests.child_scripts import Script

FIXTURE = Path(__file__).parents[1] / "fixtures" / "tiny"
DATA, BASE = FIXTURE / "datasets" / "rewriting", str(FIXTURE / "base")
FAST = ("optim.max_steps=2", "optim.batch_size=4", "precision=fp32", "method=lora", "validation.rows=2")


def swept(store, grid, overrides=FAST):
    said: list[str] = []
    options = TrainingOptions(overrides, base=BASE)
    trials, comparison = sweep("rewriting", DATA, "tried", grid, options, store=store, log=said.append)
    return trials, comparison, said


def test_a_grid_is_a_cartesian_product_in_order():
    trials = planned("tried", ["lora.r=1,2", "lora.target_modules=qv,[q_proj, k_proj]"])
    assert [trial.values for trial in trials] == [
        (f"lora.r={r}", f"lora.target_modules={target}") for r in (1, 2) for target in ('"qv"', '["q_proj", "k_proj"]')
    ]
    assert trials[0].name == "tried-r-1-target-modules-qv"


def test_names_that_would_be_equal_or_too_long_are_numbered():
    assert [trial.name for trial in planned("tried", ["optim.learning_rate=0.1,.1,0-1"])][-1] == "tried-3"
    long = ["lora.target_modules=[" + ",".join(f"layer_{n}" for n in range(20)) + "]"]
    assert planned("tried", long)[0].name == "tried-1"


@pytest.mark.parametrize("grid", [[], ["lora.r"], ["lora.r="], ["lora.r=1", "lora.r=2"], ["lora.r=1,["]])
def test_a_malformed_grid_is_refused(grid):
    with pytest.raises(UsageError, match="--grid"):
        planned("tried", grid)


def test_a_value_out_of_range_is_found_before_training(tmp_path):
    with pytest.raises(RecipeError, match=r"'lora\.r' = 0"):
        swept(Store(tmp_path), ["lora.r=2,0"])
    assert Store(tmp_path).names() == ()


@pytest.mark.slow
def test_trials_are_stored_compared_and_not_repeated(tmp_path):
    store = Store(tmp_path / "store")
    grid = ["lora.r=1,4", "lora.target_modules=qv,mlp"]
    trials, comparison, _ = swept(store, grid)
    assert store.names() == tuple(sorted(trial.name for trial in trials)) and len(trials) == 4
    best = max(comparison.rows, key=lambda row: row.value)
    assert comparison.row(str(comparison.candidate), best.measure).value == best.value
    assert len(comparison.comparisons) == 3 and comparison.correction == "holm"
    costs = comparison.costs
    assert all(set(COSTS.values()) == own.keys() for own in costs.values())
    ranks = [costs[f"tried-r-{r}-target-modules-qv@1"]["parameters trained"] for r in (1, 4)]
    assert ranks[1] == 4 * ranks[0]
    again, _, said = swept(store, grid)
    assert sum("Reusing" in text for text in said) == 4
    assert all(store.versions(trial.name) == (1,) for trial in again)


@pytest.mark.slow
def test_a_trial_that_fails_does_not_lose_the_others(cli, tmp_path):
    settings = [part for each in FAST for part in ("--set", each)]
    called = cli(
        *("sweep", "rewriting", "--data", DATA, "--name", "tried", "--base", BASE, "--store", tmp_path / "store"),
        *("--grid", "max_length=8,512,1024", *settings),
    )
    assert called.code == 1, called.err
    assert "tried-max-length-8 failed: " in called.out
    assert "tried-max-length-512@1" in called.out and "tried-max-length-1024@1" in called.out
    with pytest.raises(TrainingError, match="all 1 trials failed"):
        swept(Store(tmp_path / "other"), ["max_length=8"])


def test_what_a_library_refuses_ends_one_trial_only(tmp_path, monkeypatch):
    tried = []

    def refuses(*arguments, **_):
        tried.append(arguments[2])
        raise ValueError("no such layer")

    monkeypatch.setattr(sweeps, "train", refuses)
    with pytest.raises(TrainingError, match="all 2 trials failed, the first with: no such layer"):
        swept(Store(tmp_path), ["seed=1,2"])
    assert tried == ["tried-seed-1", "tried-seed-2"]


@pytest.mark.slow
def test_an_unfinished_trial_goes_on_with_changed_settings_after_a_restart(cli, tmp_path):
    common = ("sweep", "rewriting", "--data", DATA, "--name", "tried", "--base", BASE, "--store", tmp_path)
    fast = [part for each in FAST for part in ("--set", each)]
    too_short, enough = ([*common, "--grid", "seed=1", *fast, "--set", f"max_length={n}"] for n in (8, 512))
    assert "more than max_length = 8" in cli(*too_short).err
    changed = cli(*enough)
    assert changed.code == 1 and "had another recipe" in changed.err and "--restart" in changed.err
    called = cli(*enough, "--restart")
    assert called.code == 0, called.err
    assert "Discarding an unfinished training run" in called.out
    assert Store(tmp_path).versions("tried-seed-1") == (1,)


SCRIPT = """
import torch
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.sweep import sweep
torch.set_num_threads(1)  # a process with a pool of threads must not fork
sweep("rewriting", {data!r}, "tried", ["seed=1,2"], TrainingOptions({overrides!r}, {base!r}), store={store!r})
"""


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_stopped(tmp_path):
    store = Store(tmp_path / "store")
    overrides = [*FAST, "optim.max_steps=16", "checkpoints.every_steps=4"]
    script = Script(SCRIPT.format(data=str(DATA), base=BASE, store=str(store.root), overrides=overrides))
    checkpoints = store.root / ".runs" / "tried-seed-2" / "checkpoints"
    deadline = time.monotonic() + 120
    while not any(map(is_whole, checkpoints.glob("checkpoint-*/trainer_state.json"))) and time.monotonic() < deadline:
        assert script.is_running(), script.stderr
        time.sleep(0.02)
    script.kill()
    script.wait()
    said = script.stdout + script.stderr
    assert store.versions("tried-seed-1") == (1,) and store.versions("tried-seed-2") == (), said
    trials, _, said = swept(store, ["seed=1,2"], overrides=overrides)
    assert any("Reusing tried-seed-1@1" in text for text in said)
    assert any("Resuming" in text for text in said)
    assert trials[1].stored.manifest.training["resumed_from_step"] > 0


def is_whole(file: Path) -> bool:
    """Whether a JSON file that another process writes is written to its end."""
    try:
        return isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
    except ValueError:
        return False
