"""`evaluate`: what it refuses, decoding options of adapters that are compared, and outputs in its report."""

from __future__ import annotations

import pytest

from searchlora.adapters.operations import store_adapter
from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.errors import DataError
from searchlora.experiments.evaluate import evaluate
from searchlora.experiments.judge.judgments import load_judgments
from searchlora.experiments.options import EvaluationOptions
from searchlora.experiments.reports import _output_text
from searchlora.outputs import CitedAnswer, CitedText, FreeText, Graded, InvalidOutput, JsonObject, Label, OneLabel
from searchlora.systems.models import AdapterSystem
from searchlora.task import load_task
from tests.factories import first_word, random_adapter, random_adapter_folder, word_records


@pytest.mark.slow
def test_a_dataset_of_another_task_is_refused(tiny_base, tmp_path, monkeypatch):
    task, store = first_word(tmp_path / "task"), Store(tmp_path / "store")
    random_adapter(store, "one", task, tiny_base, tmp_path / "made", seed=1)
    rewriting = load_task("rewriting")
    data, source = tmp_path / "data", rewriting.folder / "examples.jsonl"
    build(rewriting, source, format="native", out=data, split_ratios=(1.0, 0.0, 0.0))
    monkeypatch.setattr("searchlora.experiments.evaluate.load_task", lambda *_: task)
    with pytest.raises(DataError, match="is a dataset of the task 'rewriting', not of 'first-word'"):
        evaluate("one", data, EvaluationOptions(split="train"), store=store)


@pytest.mark.slow
def test_each_adapter_generates_as_many_tokens_as_its_own_recipe_says(tiny_base, tmp_path, monkeypatch):
    task, store = first_word(tmp_path / "task"), Store(tmp_path / "store")
    for name, limit in (("short", 2), ("long", 5)):
        folder, recipe = random_adapter_folder(tiny_base, tmp_path / name, 1, (f"max_new_tokens={limit}",))
        store_adapter(store, name, folder, task=task, recipe=recipe, base=tiny_base)
    rewriting = load_task("rewriting")
    build(rewriting, rewriting.folder / "examples.jsonl", format="native", out=tmp_path / "data")
    dataset, records = load_dataset(tmp_path / "data"), word_records(3)
    judged = (dataset, records, load_judgments(dataset, task, "test", records))
    monkeypatch.setattr("searchlora.experiments.evaluate.load_task", lambda *_: task)
    monkeypatch.setattr("searchlora.experiments.evaluate.judged_records", lambda *_: judged)
    generated = {}
    run = AdapterSystem.run

    def watched(self, rows, *arguments):
        generated[self.name] = self.max_new_tokens
        return run(self, rows, *arguments)

    monkeypatch.setattr(AdapterSystem, "run", watched)

    def evaluated(adapter, other):
        return evaluate(
            adapter, "data", EvaluationOptions(cache_dir=tmp_path / "outputs"), compare_with=[other], store=store
        )

    evaluated("short", "long")
    assert generated == {"base zero-shot": 2, "long@1": 5, "short@1": 2}
    generated.clear()
    assert set(evaluated("long", "short").reused) == {"long@1", "short@1"}
    assert generated == {"base zero-shot": 5}


LABELS = OneLabel(("buy", "ask", "other"))
GRADES = Graded({"bad": 0, "poor": 0, "good": 2})


@pytest.mark.parametrize(
    ("output", "spec", "shown"),
    [
        (InvalidOutput("buy it", "not one of the labels"), LABELS, "buy it"),
        ("red running shoes", FreeText(), "red running shoes"),
        (LABELS.parse("ask"), LABELS, "ask"),
        (LABELS.from_scores([-0.1, -3.0, -3.0]), LABELS, "buy (probability 0.90)"),
        (Label("other", (0.5, 0.3, 0.2)), LABELS, "other (probability 0.20)"),
        (GRADES.from_scores([-2.0, -2.0, -2.0]), GRADES, "0 (probability 0.67)"),
        (CitedAnswer("Dry [1].", (1,), False, 0.125), None, "Dry [1]. (abstention probability 0.12)"),
        (CitedText(2, "I do not know.").parse("It is light [2]."), CitedText(2, "I do not know."), "It is light [2]."),
        ({"need": "buy", "brand": "Fjäll"}, JsonObject({}), '{"need": "buy", "brand": "Fjäll"}'),
        (["buy", "ask"], JsonObject({}), '["buy", "ask"]'),
        (None, None, ""),  # of a system that only retrieves
    ],
)
def test_outputs_are_shown_in_readable_form(output, spec, shown):
    assert _output_text(output, spec) == shown
