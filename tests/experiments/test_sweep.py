"""Sweeps on tiny models: the grid, resuming, failed trials, the report, and the choice of a setting."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from searchlora.adapters.store import Store
from searchlora.errors import RecipeError, TrainingError, UsageError
from searchlora.eval.aggregate import Aggregate
from searchlora.eval.comparison import compare
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.pareto import Setting, cheapest_equal, pareto_front
from searchlora.experiments import trials
from searchlora.experiments.options import EvaluationOptions, TrainingOptions
from searchlora.experiments.reports import write_sweep
from searchlora.experiments.sweep import MEMORY, PARAMETERS, SECONDS, _best, sweep
from searchlora.experiments.trials import planned, train_trials
from searchlora.inference.settings import LocalSettings
from tests.child_scripts import CONTEXT, Script

FIXTURE = Path(__file__).parents[1] / "fixtures" / "schema_3"
DATA, BASE = FIXTURE / "datasets" / "rewriting", str(FIXTURE / "base")
FAST = ("optim.max_steps=2", "optim.batch_size=4", "precision=fp32", "method=lora", "validation.rows=2")


def swept(store, grid, overrides=FAST, split=None):
    said: list[str] = []
    options = TrainingOptions(overrides, base=BASE)
    evaluation = EvaluationOptions(split)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "_in_own_process", lambda train, _: train())
        patch.setattr(trials, "_to_stderr", said.append)
        return sweep(
            "rewriting", DATA, "tried", grid, options, evaluation=evaluation, store=store, log=said.append
        ), said


def setting(name, quality, cost):
    return Setting(name, quality, quality, quality, {PARAMETERS: cost})


# the grid


def test_an_engine_compares_the_trials_and_is_refused_for_an_encoder_before_training(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="embedding: an encoder has no engine"):
        sweep("embedding", DATA, "tried", ["seed=1,2"], engine=LocalSettings(), store=tmp_path / "none")
    monkeypatch.setattr(trials, "_in_own_process", lambda train, _: train())
    options = TrainingOptions(FAST, base=BASE)
    engine = LocalSettings(quantization="nf4")
    found = sweep("rewriting", DATA, "tried", ["seed=1"], options, engine=engine, store=tmp_path, log=lambda _: None)
    assert found.evaluated.engines == ("local, nf4+fp32",)


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
def test_a_trial_that_fails_does_not_lose_the_others(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "_in_own_process", lambda train, _: train())
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


def test_what_a_library_refuses_ends_one_trial_only(tmp_path, monkeypatch):
    def refuses(*_, **__):
        raise ValueError("no such layer")

    monkeypatch.setattr(trials, "train", refuses)
    monkeypatch.setattr(trials, "_in_own_process", lambda train, _: train())
    refused = train_trials("rewriting", DATA, "tried", ["seed=1,2"], TrainingOptions(base=BASE), store=Store(tmp_path))
    assert [trial.error for trial in refused] == ["ValueError: no such layer"] * 2


@pytest.mark.slow
def test_an_unfinished_trial_goes_on_with_changed_settings_after_a_restart(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "_in_own_process", lambda train, _: train())
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
from searchlora.experiments import trials
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.sweep import sweep
trials._in_own_process = lambda train, _: train()
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
    assert store.versions("tried-seed-1") == (1,) and store.versions("tried-seed-2") == ()
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


def waits(file: str) -> None:
    """A trial that takes two minutes."""
    Path(file).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(120)


ISOLATED = """
from functools import partial
from searchlora.experiments.trials import Trial, _in_own_process
from tests.experiments.test_sweep import waits
_in_own_process(partial(waits, {file!r}), Trial("waits", {{}}))
"""


@pytest.mark.slow
def test_the_process_of_a_trial_ends_with_a_killed_sweep(tmp_path):
    file = tmp_path / "pid"
    program = ISOLATED.format(file=str(file))
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2])
    try:
        wait_until(lambda: file.is_file() and file.read_text())
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not Path("/proc", file.read_text(), "cmdline").exists())


def wait_until(condition, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_trials_in_processes_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("searchlora.experiments.trials.get_context", lambda _: CONTEXT)
    common = (*FAST, f"base={BASE}")
    failed, stored = train_trials(
        "rewriting", DATA, "tried", ["max_length=8,512"], TrainingOptions(overrides=common), store=Store(tmp_path)
    )
    assert failed.stored is None and "more than max_length = 8" in failed.error
    assert stored.stored is not None


# the choice


def test_the_pareto_front_has_no_dominated_setting():
    settings = [setting("a", 0.5, 10), setting("b", 0.4, 20), setting("c", 0.6, 40), setting("d", 0.6, 50)]
    assert pareto_front(settings, PARAMETERS) == ("a", "c")
    assert pareto_front(settings, PARAMETERS, less_is_better=True) == ("a", "b")


@pytest.mark.slow
def test_the_cheapest_setting_is_not_significantly_below_the_best():
    rng = np.random.default_rng(3)
    best = rng.uniform(0.4, 0.8, 200)
    values = {"large": best, "small": best - 0.002 * rng.standard_normal(200), "tiny": best - 0.2}
    systems = {
        name: Evaluation("MRR", {"MRR": {f"q{n}": float(x) for n, x in enumerate(row)}}, clusters={})
        for name, row in values.items()
    }
    settings = [
        setting(name, float(row.mean()), cost) for (name, row), cost in zip(values.items(), (64, 16, 1), strict=True)
    ]
    name = max(settings, key=lambda each: each.quality).name
    _, cheapest = cheapest_equal(settings, compare(systems, candidate=name), PARAMETERS)
    assert cheapest == "small"


def test_a_setting_whose_measure_is_undefined_is_never_chosen():
    """A measure such as kappa is undefined where all grades are equal; it is not tested then, and wins nothing."""
    values = {"undefined": math.nan, "low": 0.1, "high": 0.3}
    assert [_best(values, less_is_better=less) for less in (False, True)] == ["high", "low"]
    rows, cells_of = [f"q{n}" for n in range(8)], {"good": (1.0, 1.0), "undefined": (0.0, 0.0)}
    kappas = {name: Aggregate(dict.fromkeys(rows, cells), _ratio) for name, cells in cells_of.items()}
    systems = {name: Evaluation("kappa", {}, {}, aggregates={"kappa": kappa}) for name, kappa in kappas.items()}
    settings = [setting("undefined", math.nan, 1), setting("good", 1.0, 10)]
    assert pareto_front(settings, PARAMETERS) == ("good",)
    assert cheapest_equal(settings, compare(systems, candidate="good", resamples=50), PARAMETERS) == ("good", "good")


def _ratio(sums):
    with np.errstate(invalid="ignore"):
        return sums[..., 0] / sums[..., 1]
