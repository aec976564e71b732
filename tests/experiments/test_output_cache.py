"""The output cache: outputs of every kind, reused only for the same model, prompts and decoding options."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from searchlora.adapters.store import Store
from searchlora.experiments.evaluation_run import EvaluationRun
from searchlora.experiments.output_cache import Model, OutputCache
from searchlora.outputs import CitedAnswer, Grade, InvalidOutput, Label
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
def asked(tiny_base, tmp_path_factory):
    """A model and the trial that it was in."""
    folder = tmp_path_factory.mktemp("kept")
    task = first_word(folder / "task")
    stored = made_adapter(Store(folder / "store"), "one", task, tiny_base, folder / "made", seed=1)
    return Model("one@1", stored), EvaluationRun(task, word_records(6))


def test_outputs_of_every_kind_come_back(asked, tmp_path):
    model, trial = asked
    OutputCache(tmp_path, trial).save(model, OUTPUTS, {"ms per query": 2.0})
    cache = OutputCache(tmp_path, trial)
    assert cache.outputs(model) == (OUTPUTS, {"ms per query": 2.0})
    assert cache.reused == ["one@1"]


def test_another_way_of_asking_gives_nothing_back(asked, tmp_path):
    model, trial = asked
    OutputCache(tmp_path, trial).save(model, OUTPUTS, {})
    for other in (
        replace(trial, constrained=False),
        replace(trial, max_new_tokens=5),
        replace(trial, records=word_records(7)),
    ):
        assert OutputCache(tmp_path, other).outputs(model) is None
    assert OutputCache(tmp_path, trial).outputs(replace(model, bare=True)) is None
    assert OutputCache(None, trial).outputs(model) is None


def test_what_no_file_can_hold_is_not_kept(asked, tmp_path):
    @dataclass(frozen=True)
    class Own:
        value: int

    model, trial = asked
    for outputs in ([Own(1)], [{"tent", "boot"}], [[Label("tent")]]):
        OutputCache(tmp_path, trial).save(model, outputs, {})
    assert list(tmp_path.iterdir()) == []
