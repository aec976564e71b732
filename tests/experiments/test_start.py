"""`train --start-from`: a stored adapter is trained further."""

from __future__ import annotations

import shutil
from itertools import cycle
from pathlib import Path

import pytest
import torch

from searchlora.adapters.ancestry import ancestors, training_queries
from searchlora.adapters.operations import verify
from searchlora.adapters.peft_folder import read_weights
from searchlora.adapters.store import Store
from searchlora.errors import BaseMismatch, NotInStore, RecipeError, TamperedAdapter, UsageError
from searchlora.eval.judgments.lineage import query_hash
from searchlora.experiments.improve.command import improve
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import train
from searchlora.testing import build_tiny_base
from tests.factories import native_dataset

SHORT = ("optim.max_steps=2", "optim.batch_size=2", "lora.r=2", "checkpoints.every_steps=1")

#: Training that changes nothing.
STILL = ("optim.max_steps=1", "optim.batch_size=2", "optim.learning_rate=1e-30", "optim.weight_decay=0")


def dataset(folder: Path, words: str, splits: str = "train", task: str = "rewriting") -> Path:
    """A dataset with one row per word, in these splits in turn."""
    target = {"rewriting": "rewrite", "intent": "label", "embedding": "positives"}[task]
    rows = []
    for word, split in zip(words.split(), cycle(splits.split()), strict=False):
        shoes = [f"{word} shoes"] if task == "embedding" else f"{word} shoes"
        rows.append({"id": word, "group": word, "query": f"{word} kicks", target: shoes, "split": split})
    return native_dataset(task, folder / "dataset", rows)


@pytest.fixture(scope="module")
def first(tiny_base, tmp_path_factory):
    """A store with `r@1`, trained on red, green and blue; its folder must not be written."""
    folder = tmp_path_factory.mktemp("first")
    options = TrainingOptions(base=tiny_base.name, overrides=SHORT)
    train("rewriting", dataset(folder, "red green blue"), "r", options, store=folder / "store")
    return Store(folder / "store")


@pytest.mark.slow
def test_training_begins_with_the_weights_of_the_adapter_and_keeps_its_settings(first, tmp_path):
    old, new_rows = first.get("r@1"), dataset(tmp_path, "pink grey white")
    still = train("rewriting", new_rows, "still", TrainingOptions(overrides=STILL, start_from="r"), store=first)
    weights = read_weights(old.path)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in read_weights(still.path).items())
    assert still.manifest.recipe["lora"] == old.manifest.recipe["lora"] and still.manifest.recipe["lora"]["r"] == 2
    assert still.manifest.base == old.manifest.base
    further = train("rewriting", new_rows, "further", TrainingOptions(overrides=SHORT, start_from="r@1"), store=first)
    assert any(not torch.equal(tensor, weights[key]) for key, tensor in read_weights(further.path).items())
    verify("further", store=first)


@pytest.mark.slow
def test_an_adapter_that_was_trained_further_has_seen_the_queries_of_both(first, tmp_path):
    rows = dataset(tmp_path, "pink grey white")
    options = TrainingOptions(overrides=STILL, start_from="r")
    stored = train("rewriting", rows, "lineage", options, store=first)
    assert stored.manifest.parents == ["r@1"] and ancestors(first, "lineage") == ("r@1",)
    words = ["red", "green", "blue", "pink", "grey", "white"]
    assert set(training_queries(first, "lineage") or ()) == {query_hash(f"{word} kicks") for word in words}
    reused = TrainingOptions(overrides=STILL, start_from="r", reuse=True)
    assert train("rewriting", rows, "lineage", reused, store=first).reference == "lineage@1"
    fresh = TrainingOptions(overrides=SHORT, base=stored.manifest.recipe["base"], reuse=True)
    assert train("rewriting", rows, "lineage", fresh, store=first).reference == "lineage@2"


@pytest.mark.slow
def test_an_interrupted_run_is_not_resumed_from_another_adapter(first, tmp_path, monkeypatch):
    rows = dataset(tmp_path, "pink grey white")
    train("rewriting", rows, "other", TrainingOptions(overrides=STILL, start_from="r"), store=first)
    begun = first.root / ".runs" / "begun"
    begun.mkdir(parents=True)
    monkeypatch.setattr("searchlora.experiments.training_runs.train_in", lambda *_: pytest.fail("trained"))
    with pytest.raises(pytest.fail.Exception):
        train("rewriting", rows, "begun", TrainingOptions(overrides=STILL, start_from="r"), store=first)
    with pytest.raises(Exception, match="had another adapter to start from"):
        options = TrainingOptions(overrides=STILL, start_from="other", resume=True)
        train("rewriting", rows, "begun", options, store=first)


def test_what_does_not_fit_the_weights_is_refused(first, tmp_path):
    rows = dataset(tmp_path, "pink grey white")

    def begin(*overrides: str, task: str = "rewriting", data: Path = rows, **options: str) -> None:
        chosen = {"start_from": "r", **options}
        train(task, data, "new", TrainingOptions(overrides=overrides, **chosen), store=first)

    with pytest.raises(RecipeError, match=r"keeps its LoRA settings[^@]*as in r@1"):
        begin("lora.r=4")
    with pytest.raises(RecipeError, match="method = full trains no adapter further"):
        begin("method=full")
    other = build_tiny_base(tmp_path / "other", hidden=32)
    with pytest.raises(BaseMismatch, match="r@1"):
        begin(base=str(other))
    with pytest.raises(UsageError, match="adapter of the task 'rewriting', not of 'intent'"):
        begin(task="intent", data=dataset(tmp_path / "intents", "pink grey white", task="intent"))
    with pytest.raises(NotInStore):
        begin(start_from="missing")
    with pytest.raises(UsageError, match=r"newest 'r' will be another one\. Name the version: r@1"):
        train("rewriting", rows, "r", TrainingOptions(start_from="r"), store=first)
    with pytest.raises(UsageError, match="improve starts from the adapter that it improves"):
        improve("r", rows, "new", TrainingOptions(start_from="r"), store=first)


def test_changed_weights_are_not_trained_further(first, tmp_path):
    store = Store(tmp_path / "store")
    shutil.copytree(first.root / "r", store.root / "r")
    file = store.get("r").path / "adapter_model.safetensors"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(TamperedAdapter):
        train("rewriting", dataset(tmp_path, "pink"), "new", TrainingOptions(start_from="r"), store=store)


def test_test_rows_that_the_adapter_was_trained_on_are_refused(first, tmp_path):
    rows = dataset(tmp_path, "pink red green white", "train test")
    with pytest.raises(UsageError, match=r"r@1: was trained on 1 of the 2 test rows \(red\)"):
        train("rewriting", rows, "new", TrainingOptions(overrides=STILL, start_from="r"), store=first)


@pytest.mark.slow
def test_an_encoder_is_trained_further(encoder_base, cli, tmp_path):
    words = "red green blue pink grey white brown black"
    first, second = dataset(tmp_path / "a", words, task="embedding"), dataset(tmp_path / "b", words, task="embedding")
    common = [word for value in ("optim.max_steps=3", "optim.batch_size=4") for word in ("--set", value)]
    store = Store(tmp_path / "store")
    to_train = ("train", "embedding", "--store", store.root, *common)
    assert not cli(*to_train, "--data", first, "--name", "e", "--base", encoder_base.name, "--set", "lora.r=2").code
    rate = ("--set", "optim.learning_rate=1e-30")
    assert not cli(*to_train, "--data", second, "--name", "further", "--start-from", "e@1", *rate).code
    weights = read_weights(store.get("e").path)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in read_weights(store.get("further").path).items())
    assert store.get("further").manifest.parents == ["e@1"]
