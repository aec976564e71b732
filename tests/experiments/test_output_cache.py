"""The output cache: outputs of every type, reused only for the same model, prompts and decoding options."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from searchlora.adapters.store import Store
from searchlora.experiments import output_cache
from searchlora.experiments.evaluation_run import EvaluationRun
from searchlora.experiments.output_cache import Model, OutputCache
from searchlora.outputs import CitedAnswer, Grade, InvalidOutput, Label
from searchlora.prompts import RENDERING
from tests.made import made_adapter
from tests.words import first_word, word_records

OUTPUTS = [
    Label("tent", (0.75, 0.25)),
    Grade(1, (0.5, 0.5)),
    CitedAnswer("It is dry [1].", (1,), abstained=False),
    InvalidOutput("no", "not one of the labels"),
    {"colour": "red"},
    "text",
]


@pytest.fixture(scope="module")
def measured(tiny_base, tmp_path_factory):
    """A model and the evaluation run that it took part in."""
    folder = tmp_path_factory.mktemp("cached")
    task = first_word(folder / "task")
    stored = made_adapter(Store(folder / "store"), "one", task, tiny_base, folder / "made", seed=1)
    return Model("one@1", stored), EvaluationRun(task, word_records(6))


def test_outputs_of_every_type_are_read_back(measured, tmp_path):
    model, evaluation_run = measured
    OutputCache(tmp_path, evaluation_run).save(model, OUTPUTS, {"ms per query": 2.0})
    cache = OutputCache(tmp_path, evaluation_run)
    assert cache.outputs(model) == (OUTPUTS, {"ms per query": 2.0})
    assert cache.reused == ["one@1"]


def test_changed_prompts_or_decoding_options_or_model_miss_the_cache(measured, tmp_path):
    model, evaluation_run = measured
    OutputCache(tmp_path, evaluation_run).save(model, OUTPUTS, {})
    for other in (
        replace(evaluation_run, constrained=False),
        replace(evaluation_run, max_new_tokens=5),
        replace(evaluation_run, records=word_records(7)),
    ):
        assert OutputCache(tmp_path, other).outputs(model) is None
    assert OutputCache(tmp_path, evaluation_run).outputs(replace(model, bare=True)) is None
    assert OutputCache(None, evaluation_run).outputs(model) is None


def test_another_rendering_version_misses_the_cache(measured, tmp_path, monkeypatch):
    """The same chats may render to other token ids under another version of the renderer."""
    model, evaluation_run = measured
    OutputCache(tmp_path, evaluation_run).save(model, OUTPUTS, {})
    monkeypatch.setattr(output_cache, "RENDERING", RENDERING + 1)
    assert OutputCache(tmp_path, evaluation_run).outputs(model) is None
    monkeypatch.undo()
    assert OutputCache(tmp_path, evaluation_run).outputs(model) == (OUTPUTS, {})


def test_outputs_that_json_cannot_represent_are_not_cached(measured, tmp_path):
    @dataclass(frozen=True)
    class Custom:
        value: int

    model, evaluation_run = measured
    for outputs in ([Custom(1)], [{"tent", "boot"}], [[Label("tent")]]):
        OutputCache(tmp_path, evaluation_run).save(model, outputs, {})
    assert list(tmp_path.iterdir()) == []
