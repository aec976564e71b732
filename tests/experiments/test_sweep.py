"""Sweeps on tiny models: the grid, resuming, failed trials, the report, and the choice of a setting."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import EngineError, LoadCheckFailed, RecipeError, TrainingError, UsageError
from searchlora.eval.pareto import Setting
from searchlora.experiments import trials
from searchlora.experiments.options import EvaluationOptions, TrainingOptions
from searchlora.experiments.reports import write_sweep
from searchlora.experiments.sweep import MEMORY, PARAMETERS, SECONDS, sweep
from searchlora.experiments.trials import planned, train_trials
from searchlora.inference.settings import LocalSettings, VllmSettings
from tests.child_scripts import Script

FIXTURE = Path(__file__).parents[1] / "fixtures" / "tiny"
DATA, BASE = FIXTURE / "datasets" / "rewriting", str(FIXTURE / "base")
FAST = ("optim.max_steps=2", "optim.batch_size=4", "precision=fp32", "method=lora", "validation.rows=2")


def swept(store, grid, overrides=FAST, split=None):
    said: list[str] = []
    options = TrainingOptions(overrides, base=BASE)
    evaluation = EvaluationOptions(split)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "_to_stderr", said.append)
        return sweep(
            "rewriting", DATA, "tried", grid, options, evaluation=evaluation, store=store, log=said.append
        ), said


def setting(name, quality, cost):
    return Setting(name, quality, quality, quality, {PARAMETERS: cost})


# the grid


def test_an_engine_compares_the_trials_and_is_refused_for_an_encoder_before_training(tmp_path):
    with pytest.raises(UsageError, match="embedding: an encoder has no engine"):
        sweep("embedding", DATA, "tried", ["seed=1,2"], engine=LocalSettings(), store=tmp_path / "none")
    options = TrainingOptions(FAST, base=BASE)
    engine = LocalSettings(precision="bf16")
    found = sweep("rewriting", DATA, "tried", ["seed=1"], options, engine=engine, store=tmp_path, log=lambda _: None)
    assert found.evaluated.engines == ("local, bf16",)


def test_a_grid_is_a_cartesian_product_in_order():
    trials = planned("tried", ["lora.r=1,2", "lora.target_modules=qv,[q_proj, k_proj]"])
    assert [trial.values for trial in trials] == [
        {"lora.r": r, "lora.target_modules": target} for r in (1, 2) for target in ("qv", ["q_proj", "k_proj"])
    ]
    assert trials[0].name == "tried-r-1-target-modules-qv"
    assert trials[1].overrides == ("lora.r=1", 'lora.target_modules=["q_proj", "k_proj"]')


def test_names_that_would_be_equal_or_too_long_are_numbered():
    assert [trial.name for trial in planned("tried", ["optim.learning_rate=0.1,.1,0-1"])][-1] == "tried-2"
    long = ["lora.target_modules=[" + ",".join(f"layer_{n}" for n in range(20)) + "]"]
    assert planned("tried", long)[0].name == "tried-1"


def test_dates_of_a_grid_are_text():
    trials = planned("tried", ["prompt.date=2024-01-02,'2024-01-02',2024-01-03"])
    assert [trial.values for trial in trials] == [{"prompt.date": "2024-01-02"}, {"prompt.date": "2024-01-03"}]


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ([], "0 trials"),
        (["lora.r"], "not of the form"),
        (["lora.r="], "not of the form"),
        (["lora.r=1", "lora.r=2"], "once per key"),
        (["lora.r=1,["], "not YAML values|are not YAML"),
        ([f"lora.r={','.join(map(str, range(1, 40)))}", f"seed={','.join(map(str, range(40)))}"], "1560 trials"),
    ],
)
def test_a_malformed_grid_is_refused(grid, says):
    with pytest.raises(UsageError, match=says):
        planned("tried", grid)


def test_a_value_out_of_range_is_found_before_training(tmp_path):
    with pytest.raises(RecipeError, match=r"'lora\.r' = 0"):
        swept(Store(tmp_path), ["lora.r=2,0"])
    assert Store(tmp_path).names() == ()


# trials


@pytest.mark.slow
@pytest.mark.usefixtures("plots")
def test_trials_are_stored_compared_and_not_repeated(tmp_path):
    store = Store(tmp_path / "store")
    found, said = swept(store, ["lora.r=1,4", "lora.target_modules=qv,mlp"])
    assert store.names() == tuple(sorted(trial.name for trial in found.trials)) and len(found.trials) == 4
    assert found.evaluated.split == "validation" and found.comparison.candidate == found.best
    parameters = {each.name: each.costs[PARAMETERS] for each in found.settings}
    assert parameters["tried-r-4-target-modules-qv@1"] == 4 * parameters["tried-r-1-target-modules-qv@1"]
    assert all({PARAMETERS, MEMORY, SECONDS} <= each.costs.keys() for each in found.settings)
    assert store.get("tried-r-4-target-modules-mlp").manifest.recipe["lora"]["target_modules"] == "mlp"
    again, said = swept(store, ["lora.r=1,4", "lora.target_modules=qv,mlp"])
    assert sum("Reusing" in text for text in said) == 4
    assert all(store.versions(trial.name) == (1,) for trial in again.trials)
    report = write_sweep(found, tmp_path / "out").read_text(encoding="utf-8")
    assert "| lora.r | lora.target_modules |" in report and "split 'validation'" in report
    content = json.loads((tmp_path / "out" / "sweep.json").read_text(encoding="utf-8"))
    assert len(content["settings"]) == 4 and content["best"] == found.best
    plots = sorted(tmp_path.glob("out/*.svg"))
    assert len(plots) == 3
    for plot in plots:
        text = plot.read_text(encoding="utf-8")
        assert 'xmlns="http://www.w3.org/2000/svg"' in text and "--accent:#" in text


@pytest.mark.slow
def test_a_trial_that_fails_does_not_lose_the_others(cli, tmp_path):
    settings = [part for each in FAST for part in ("--set", each)]
    called = cli(
        *("sweep", "rewriting", "--data", DATA, "--name", "tried", "--base", BASE, "--store", tmp_path / "store"),
        *("--grid", "max_length=8,1024", *settings, "--split", "test", "--out", tmp_path / "out", "--json"),
    )
    assert called.code == 1, called.err
    content = json.loads(called.out)
    failed, trained = content["trials"]
    assert failed["values"] == {"max_length": 8} and "more than max_length = 8" in failed["error"]
    assert trained["error"] is None and content["best"] == "tried-max-length-1024@1"
    table = (tmp_path / "out" / "sweep.md").read_text()
    assert "tried-max-length-8 failed: " in table and "measures none of them" in table  # chosen on the test split
    with pytest.raises(TrainingError, match="all 1 trials failed"):
        swept(Store(tmp_path / "other"), ["max_length=8"])


def test_an_engine_that_could_not_compute_the_trials_is_found_before_training(tmp_path):
    (python := tmp_path / "python").write_text("#!/bin/sh\necho 0.32.0\n")
    python.chmod(0o755)
    wrong, vllm = (VllmSettings(python=str(tmp_path / name), max_lora_rank=16) for name in ("none", "python"))
    for engine, grid, says in (
        (wrong, "seed=1", "'python': the interpreter cannot be started"),
        (vllm, "lora.variant=lora,dora", "tried-variant-dora: 'use_dora': vLLM does not compute DoRA"),
        (vllm, "lora.r=4,32", "tried-r-32: 'r': rank 32 is above 'max_lora_rank' of the engine, 16"),
    ):
        with pytest.raises((EngineError, LoadCheckFailed), match=says):
            sweep("rewriting", DATA, "tried", [grid], TrainingOptions(FAST, base=BASE), engine=engine, store=tmp_path)
    assert Store(tmp_path).names() == ()


def test_what_a_library_refuses_ends_one_trial_only(tmp_path, monkeypatch):
    def refuses(*_, **__):
        raise ValueError("no such layer")

    monkeypatch.setattr(trials, "train", refuses)
    refused = train_trials("rewriting", DATA, "tried", ["seed=1,2"], TrainingOptions(base=BASE), store=Store(tmp_path))
    assert [trial.error for trial in refused] == ["ValueError: no such layer"] * 2


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
    assert "Discarding an unfinished training run" in called.err
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
    found, said = swept(store, ["seed=1,2"], overrides=overrides)
    assert any("Reusing tried-seed-1@1" in text for text in said)
    assert any("Resuming" in text for text in said)
    assert found.trials[1].stored.manifest.training["resumed_from_step"] > 0


def is_whole(file: Path) -> bool:
    """Whether a JSON file that another process writes is written to its end."""
    try:
        return isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
    except ValueError:
        return False
