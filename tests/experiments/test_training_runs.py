"""Training runs that are killed around storing, resumed, and stored exactly once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from searchlora.adapters.store import Store
from searchlora.adapters.stored import check_hashes
from searchlora.errors import TrainingError
from searchlora.experiments import training_runs
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import train
from searchlora.experiments.training_runs import TrainingRunFolder, train_in
from searchlora.progress import Steps, no_progress
from searchlora.task import load_generation_task
from searchlora.training import sft_trainer
from tests.child_scripts import run_script
from tests.factories import native_dataset

SHORT = ("optim.max_steps=2", "optim.batch_size=2", "lora.r=2", "checkpoints.every_steps=1")

#: Trains in a process of its own: base, dataset, store, where to be killed.
CHILD = """
import os, shutil, signal, sys
from searchlora.experiments import training_runs
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import train
from searchlora.files import atomic
from searchlora.training import callbacks, sft_trainer, training_run

base, data, store, point = sys.argv[1:]
parent = os.getpid()

def die(*_args, **_kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def die_together(*_args, **_kwargs):
    os.kill(parent, signal.SIGKILL)
    die()

remove = training_runs.TrainingRunFolder.remove
if point == "before the version appears":
    publish = atomic.publish_folder
    atomic.publish_folder = lambda new, target: die() if target.parent.name == "r" else publish(new, target)
elif point == "before clean-up":
    training_runs.TrainingRunFolder.remove = die
elif point == "during clean-up":
    def remove_a_part(folder):
        shutil.rmtree(folder.path / "checkpoints")
        (folder.path / "metrics.jsonl").unlink()
        die()
    training_runs.TrainingRunFolder.remove = remove_a_part
elif point == "after clean-up":
    training_runs.TrainingRunFolder.remove = lambda folder: (remove(folder), die())
elif point == "in training":  # this and the following are in the training process, a fork of this one
    log = callbacks.MetricsCallback.on_log
    callbacks.MetricsCallback.on_log = lambda self, args, state, *rest, **more: (
        die() if state.global_step == 2 else log(self, args, state, *rest, **more)
    )
elif point == "in a checkpoint":
    sft_trainer.CompletionTrainer._save = die
elif point == "before the result":
    training_run.plot_losses = die
elif point == "both, in a checkpoint":
    sft_trainer.CompletionTrainer._save = die_together
train("rewriting", data, "r", TrainingOptions(OVERRIDES, base), store=store)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    rows = [{"id": f"r{n}", "group": f"g{n}", "query": f"{n} kicks", "rewrite": f"{n} shoes"} for n in range(12)]
    rows = [{**row, "split": "train"} for row in rows]
    return native_dataset("rewriting", tmp_path_factory.mktemp("data") / "dataset", rows)


@pytest.fixture
def trained(tiny_base, data, tmp_path):
    """Train `r` in the store of the test."""

    def call(overrides=SHORT, name="r", log=None, **more):
        options = TrainingOptions(base=tiny_base.name, overrides=overrides, **more)
        return train("rewriting", data, name, options, store=tmp_path / "store", **({"log": log} if log else {}))

    return call


def killed(base: str, data: Path, store: Path, point: str) -> None:
    done = run_script(CHILD.replace("OVERRIDES", repr(SHORT)), base, data, store, point)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "point", ["before the version appears", "before clean-up", "during clean-up", "after clean-up"]
)
def test_a_run_killed_around_storing_is_stored_once(tiny_base, data, trained, tmp_path, point):
    store = Store(tmp_path / "store")
    killed(tiny_base.name, data, store.root, point)
    was_stored = point in ("before clean-up", "during clean-up", "after clean-up")
    assert store.versions("r") == ((1,) if was_stored else ())
    before = store.get("r").manifest if was_stored else None
    resumed = trained(resume=True)
    assert resumed.reference == "r@1" and store.versions("r") == (1,)
    assert before is None or resumed.manifest == before
    check_hashes(resumed)
    assert not (store.root / ".runs" / "r").exists()


@pytest.mark.slow
@pytest.mark.parametrize("point", ["in training", "in a checkpoint", "before the result", "both, in a checkpoint"])
def test_a_run_whose_training_process_is_killed_is_resumed_and_stored_once(tiny_base, data, trained, tmp_path, point):
    store = Store(tmp_path / "store")
    done = run_script(CHILD.replace("OVERRIDES", repr(SHORT)), tiny_base.name, data, store.root, point)
    if point.startswith("both"):
        assert done.returncode == -signal.SIGKILL, done.stderr
    else:
        assert done.returncode == 1
        assert "SIGKILL" in done.stderr and "--resume" in done.stderr
    assert store.versions("r") == ()
    resumed = trained(resume=True)
    assert store.versions("r") == (1,) and not (store.root / ".runs" / "r").exists()
    steps = {"in training": 1, "before the result": 2}.get(point, 0)
    assert resumed.manifest.training["resumed_from_step"] == steps
    check_hashes(resumed)


def out_of_memory_above(monkeypatch: pytest.MonkeyPatch, rows: int, step: int = 0) -> list[int]:
    """Train in this process, where batches of more rows run out of memory from a step on; returns sizes of batches."""
    seen = []
    compute = sft_trainer.CompletionTrainer.compute_loss

    def limited(self, model, inputs, *args, **kwargs):
        if len(inputs["row"]) > rows and self.state.global_step >= step:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        seen.append(len(inputs["row"]))
        return compute(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(sft_trainer.CompletionTrainer, "compute_loss", limited)
    monkeypatch.setattr(training_runs, "run_in_child", lambda work, steps, **_: work(steps))
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 2])
def test_after_memory_ran_out_a_step_has_the_same_rows_in_smaller_batches(trained, monkeypatch, step):
    said = []
    overrides = (*SHORT, "optim.batch_size=6", "optim.max_steps=4", "method=lora", "precision=fp32")
    whole = trained(overrides, "whole")
    seen = out_of_memory_above(monkeypatch, 2, step)
    small = trained(overrides, "small", log=said.append)
    assert {*seen[:step]} <= {5, 6} and {*seen[step:]} == {1}
    ran_out = [line for line in said if line.startswith("Memory ran out")]
    assert [line.split("now in ")[1] for line in ran_out] == ["2 batches of 3.", "6 batches of 1."]
    assert small.manifest.recipe == whole.manifest.recipe
    assert small.manifest.training["steps"] == 4 and small.manifest.training["resumed_from_step"] == step
    assert small.manifest.training["tokens"] == whole.manifest.training["tokens"]
    assert small.manifest.training["final_loss"] == pytest.approx(whole.manifest.training["final_loss"], rel=1e-5)


@pytest.mark.slow
def test_memory_that_runs_out_with_the_smallest_batches_names_the_settings(trained, monkeypatch):
    out_of_memory_above(monkeypatch, 0)
    with pytest.raises(TrainingError, match=r"memory ran out.*optim\.batch_size.*optim\.gradient_checkpointing"):
        trained()


@pytest.mark.slow
def test_reusing_a_version_deletes_the_run_folder_of_a_killed_process(tiny_base, data, trained, tmp_path):
    store = Store(tmp_path / "store")
    killed(tiny_base.name, data, store.root, "before clean-up")
    assert trained(reuse=True).reference == "r@1"
    assert not (store.root / ".runs" / "r").exists()


@pytest.mark.slow
def test_a_finished_run_of_another_recipe_is_not_resumed(trained):
    trained()
    with pytest.raises(TrainingError, match="no unfinished run of 'r' to resume"):
        trained((*SHORT, "seed=5"), resume=True)


@pytest.mark.slow
def test_an_adapter_of_an_older_version_of_the_task_is_not_reused(trained, tmp_path, monkeypatch):
    for version, expected in ((None, "r@1"), (None, "r@1"), (99, "r@2")):
        if version is not None:
            monkeypatch.setattr(type(load_generation_task("rewriting")), "version", version)
        assert trained(reuse=True).reference == expected
    assert Store(tmp_path / "store").get("r@2").manifest.task_version == 99


@pytest.mark.slow
def test_a_damaged_run_file_is_an_error(trained, tmp_path):
    file = tmp_path / "store" / ".runs" / "r" / "run.json"
    file.parent.mkdir(parents=True)
    file.write_text("{", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"run\.json: cannot be read.*--restart"):
        trained(resume=True)
    trained(restart=True)


def test_resume_with_restart_is_refused_before_the_run_is_deleted(refused, data, tmp_path):
    run = tmp_path / "store" / ".runs" / "r" / "run.json"
    run.parent.mkdir(parents=True)
    run.write_text("{}", encoding="utf-8")
    both = ("--name", "r", "--data", data, "--store", tmp_path / "store", "--resume", "--restart")
    for command in (("train", "rewriting"), ("improve", "--set", "base=nowhere")):
        assert "Give one of the two" in refused(*command, *both)
    assert run.read_text(encoding="utf-8") == "{}"


def test_a_run_waits_for_the_training_process_of_a_killed_one(tmp_path):
    store = Store(tmp_path)
    (tmp_path / ".runs").mkdir()
    child = FileLock(tmp_path / ".runs" / "r@child.lock", thread_local=False)
    child.acquire()
    timer = threading.Timer(0.3, child.release)
    timer.start()
    with training_runs._exclusive_run(store, "r"):
        assert not child.is_locked
    timer.join()


def test_a_run_whose_child_does_not_end_leaves_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(training_runs, "_CHILD_ENDS", 0.1)
    (tmp_path / ".runs").mkdir()
    child = FileLock(tmp_path / ".runs" / "r@child.lock")
    run = training_runs._exclusive_run(Store(tmp_path), "r")
    with child, pytest.raises(TrainingError, match="is being trained by another process") as raised:
        run.__enter__()
    assert raised.tb is not None  # it holds all objects of the call
    with FileLock(tmp_path / ".runs" / "r@run.lock", timeout=0):
        pass


def test_names_that_look_like_locks_of_others_are_trained_beside_them(tmp_path):
    store = Store(tmp_path)
    with training_runs._exclusive_run(store, "r"):
        for name in ("r.training-0", "r.lock", "r.child"):
            with training_runs._exclusive_run(store, name):
                pass


@dataclass(frozen=True)
class Noting:
    """A training job that returns where TensorBoard's files go: that library is not installed for tests."""

    steps: Steps = no_progress
    recipe: None = None
    base: None = None

    @property
    def rebuild(self) -> Callable[[Steps], Noting]:
        return Noting

    def data(self) -> dict[str, str]:
        return {}

    def train(self, folder: Path, resume: bool) -> str:
        del folder, resume
        return os.environ["TENSORBOARD_LOGGING_DIR"]


def test_each_name_has_a_folder_for_tensorboard_unless_the_user_chose_one(tmp_path, monkeypatch):
    """A sweep trains several names in one process."""
    store, job = Store(tmp_path / "store"), Noting()
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    for name in ("one", "two"):
        chosen = train_in(job, store, name, TrainingRunFolder(tmp_path, "id"), TrainingOptions())
        assert chosen == str(store.root / ".logs" / name)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "mine")
    assert train_in(job, store, "three", TrainingRunFolder(tmp_path, "id"), TrainingOptions()) == "mine"
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == "mine"


def test_a_run_that_fails_before_it_trains_leaves_no_folder_for_tensorboard(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise TrainingError("does not fit")

    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    monkeypatch.setattr(training_runs, "run_in_child", refuse)
    with pytest.raises(TrainingError, match="does not fit"):
        train_in(Noting(), Store(tmp_path / "store"), "one", TrainingRunFolder(tmp_path, "id"), TrainingOptions())
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ


def test_a_dataset_that_is_built_again_meanwhile_is_not_trained_on(tmp_path):
    (tmp_path / "r").mkdir()
    with pytest.raises(TrainingError, match="a dataset was built again after the run began"):
        training_runs._train(Noting, {"dataset": "as it was"}, None, None, tmp_path / "r", False, no_progress)


def test_the_first_run_of_a_store_at_a_url_is_found_by_the_next_process(tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path))
    store = Store(f"memory://runs/{tmp_path.name}")
    with training_runs._exclusive_run(store, "r"):
        assert training_runs._run_file(Store(store.place), "r") == training_runs._run_file(store, "r")
