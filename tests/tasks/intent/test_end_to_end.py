"""The intent task from a user's file to its evaluation, with a tiny model; prompts."""

from __future__ import annotations

import json

import pytest

from searchlora.adapters.golden import golden_renders
from searchlora.adapters.store import Store
from searchlora.data.dataset import load_dataset
from searchlora.errors import UsageError
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import train
from searchlora.models.load import load_tokenizer
from searchlora.prompts import Renderer, messages
from searchlora.tasks.intent import task

QUICK = ("optim.max_steps=60", "optim.epochs=99", "optim.batch_size=16", "optim.learning_rate=1e-2", "lora.r=8")
WORDS = {"card": "my card", "rate": "the rate", "oos": "zzz"}


def _set(*pairs):
    return [part for pair in pairs for part in ("--set", pair)]


def _figures(folder):
    results = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    return {(row["system"], row["measure"]): row["value"] for row in results["rows"]}


@pytest.fixture
def banks(tmp_path):
    """Two columns with official splits; out-of-scope rows are in validation and test only."""
    folder = tmp_path / "bank"
    folder.mkdir()
    for split, labels, times in (
        ("train", ("card", "rate"), 24),
        ("validation", ("card", "rate", "oos"), 6),
        ("test", ("card", "rate", "oos"), 6),
    ):
        rows = [f"{WORDS[label]} {split[:2]} {n},{label}" for n in range(times) for label in labels]
        (folder / f"{split}.csv").write_text("\n".join(["words,topic", *rows, ""]), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_labels_end_to_end(cli, tmp_path, tiny_base, banks):
    data, store, out = tmp_path / "data", tmp_path / "store", tmp_path / "evaluation"
    columns = ("text=words", "label=topic", "out_of_scope=oos")
    options = [part for option in columns for part in ("--option", option)]
    built = cli("data", "build", "intent", banks, "--format", "csv", "--out", data, *options)
    assert built.code == 0, built.err
    settings = load_dataset(data).settings
    assert settings == {"kind": "label", "labels": ["card", "rate"], "out_of_scope": "oos"}

    trained = cli(
        *("train", "intent", "--data", data, "--name", "bank-intent", "--base", tiny_base.path, "--store", store),
        *_set(*QUICK, "method=lora", "validation.rows=4"),
    )
    assert trained.code == 0, trained.err
    manifest = Store(store).get("bank-intent").manifest
    assert manifest.settings == settings
    assert set(manifest.tuned) == {"temperature", "out_of_scope_below"}
    brief = ("optim.max_steps=4", "validation.generate_rows=0")
    tuned_by_two = {"temperature", "out_of_scope_below"}
    for rows, tuned in (("0", set()), ("1", set()), ("2", tuned_by_two)):  # the first that is drawn is out of scope
        overrides = (*brief, f"base={tiny_base.path}", f"validation.tune_rows={rows}")
        stored = train("intent", data, f"tuned-on-{rows}", TrainingOptions(overrides=overrides), store=Store(store))
        assert set(stored.manifest.tuned) == tuned

    evaluated = cli("evaluate", "bank-intent", "--data", data, "--store", store, "--out", out, "--unconstrained")
    assert evaluated.code == 0, evaluated.err
    figures = _figures(out)
    assert figures["base zero-shot, unconstrained", "invalid"] == 1  # of random weights
    assert ("bank-intent@1, unconstrained", "accuracy") in figures
    assert figures["bank-intent@1", "invalid"] == figures["base zero-shot", "invalid"] == 0
    assert figures["bank-intent@1", "accuracy"] > figures["commonest answer", "accuracy"]
    assert ("bank-intent@1", "out-of-scope recall") in figures
    assert ("bank-intent@1", "calibration error") in figures
    assert ("commonest answer", "calibration error") not in figures


RECORD = {"id": "1", "group": "1", "query": " lost my\ncard "}
MANY = {"kind": "label", "labels": [f"label_{number:02}" for number in range(21)], "out_of_scope": None}
PROPERTIES = {"need": {"enum": ["buy", "ask"]}, "brand": {"type": "string"}, "any": True}
SCHEMA = {"type": "object", "properties": PROPERTIES}


@pytest.mark.parametrize(
    ("settings", "system"),
    [
        (MANY, "Name the intent."),
        ({"kind": "label", "labels": ["a", "b c"]}, "Name the intent: a, b c."),
        ({"kind": "labels", "labels": ["a", "b"]}, "Name every intent that holds as a JSON list: a, b."),
        ({"kind": "object", "schema": SCHEMA}, "Write what the query asks for as JSON: need (buy, ask), brand, any."),
    ],
)
def test_rendered_prompt(settings, system):
    assert [each["content"] for each in messages(task.bound(settings), RECORD)] == [system, "lost my card"]


def test_the_examples_render_under_any_settings(tiny_base):
    for settings in (MANY, {"kind": "object", "schema": SCHEMA}, None):
        renders = golden_renders(task.bound(settings), Renderer(load_tokenizer(tiny_base)))
        assert len(renders) == len(task.examples) > 2


def test_a_task_without_settings_is_an_error_that_names_data_build():
    with pytest.raises(UsageError, match="Take them from a dataset or an adapter"):
        task.output(RECORD)
    with pytest.raises(UsageError, match="no answer to train on"):
        task.target(RECORD)
