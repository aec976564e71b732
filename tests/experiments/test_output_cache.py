"""The output cache: outputs of every type, reused only for the same model, prompts and decoding options."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

import pytest

from searchlora.adapters.store import Store
from searchlora.experiments import output_cache
from searchlora.experiments.evaluation_run import EvaluationRun
from searchlora.experiments.output_cache import Model, OutputCache
from searchlora.experiments.result_files import file_name
from searchlora.inference.settings import LocalSettings
from searchlora.outputs import CitedAnswer, Grade, InvalidOutput, Label, to_json
from searchlora.prompts import RENDERING
from tests.factories import first_word, random_adapter, word_records

OUTPUTS = [
    Label("tent", (0.75, 0.25)),
    Grade(1, (0.5, 0.5)),
    CitedAnswer("It is dry [1].", (1,), abstained=False),
    InvalidOutput("no", "not one of the labels"),
    {"colour": "red"},
    "text",
]

ENGINE = LocalSettings().engine_id("bf16")


@pytest.fixture(scope="module")
def measured(tiny_base, tmp_path_factory):
    """A model and the evaluation run that it took part in."""
    folder = tmp_path_factory.mktemp("cached")
    task = first_word(folder / "task")
    stored = random_adapter(Store(folder / "store"), "one", task, tiny_base, folder / "made", seed=1)
    return Model("one@1", stored), EvaluationRun(task, word_records(6))


def test_outputs_of_every_type_are_read_back(measured, tmp_path):
    model, evaluation_run = measured
    OutputCache(tmp_path, evaluation_run).save(model, ENGINE, OUTPUTS, {"ms per query": 2.0})
    cache = OutputCache(tmp_path, evaluation_run)
    assert cache.outputs(model, ENGINE) == (OUTPUTS, {"ms per query": 2.0})
    assert cache.reused == ["one@1"]


def test_changed_prompts_or_decoding_options_or_model_miss_the_cache(measured, tmp_path):
    model, evaluation_run = measured
    OutputCache(tmp_path, evaluation_run).save(model, ENGINE, OUTPUTS, {})
    for other in (
        replace(evaluation_run, constrained=False),
        replace(evaluation_run, max_new_tokens=5),
        replace(evaluation_run, records=word_records(7)),
    ):
        assert OutputCache(tmp_path, other).outputs(model, ENGINE) is None
    assert OutputCache(tmp_path, evaluation_run).outputs(replace(model, bare=True), ENGINE) is None
    assert OutputCache(None, evaluation_run).outputs(model, ENGINE) is None


@pytest.mark.parametrize(
    "other",
    [
        LocalSettings(quantization="nf4").engine_id("bf16"),
        LocalSettings(precision="fp32").engine_id("bf16"),
        LocalSettings(batch_invariant=False).engine_id("bf16"),
        "http://localhost:8000, vllm, tiny",
    ],
)
def test_outputs_of_another_engine_are_not_reused(measured, tmp_path, other):
    model, evaluation_run = measured
    OutputCache(tmp_path, evaluation_run).save(model, ENGINE, OUTPUTS, {})
    assert OutputCache(tmp_path, evaluation_run).outputs(model, other) is None
    OutputCache(tmp_path, evaluation_run).save(model, other, OUTPUTS[::-1], {})
    assert OutputCache(tmp_path, evaluation_run).outputs(model, other) == (OUTPUTS[::-1], {})
    assert OutputCache(tmp_path, evaluation_run).outputs(model, ENGINE) is None
    (kept,) = tmp_path.glob("*.json")
    assert json.loads(kept.read_text())["engine"] == other


def test_sizes_of_an_engine_do_not_matter(measured, tmp_path):
    """Outputs are the same whatever the batch is, so another size computes nothing again."""
    model, evaluation_run = measured
    OutputCache(tmp_path, evaluation_run).save(model, ENGINE, OUTPUTS, {})
    smaller = LocalSettings(batch_rows=2, prefix_tokens=0, adapters=3).engine_id("bf16")
    assert OutputCache(tmp_path, evaluation_run).outputs(model, smaller) == (OUTPUTS, {})


def test_outputs_of_an_earlier_release_are_reused(measured, tmp_path):
    """Its only engine was the local one in the recipe's precision, and its key the one that this engine still has."""
    model, evaluation_run = measured
    cache = OutputCache(tmp_path, evaluation_run)
    manifest = model.adapter.manifest
    parts = [
        manifest.base.fingerprint.model_dump(),
        "bf16",
        manifest.files,
        [manifest.settings, manifest.tuned],
        manifest.prompt_options.model_dump(),
    ]
    key = hashlib.sha256((cache._conditions + json.dumps(parts, sort_keys=True)).encode()).hexdigest()
    entry = {"system": "one@1", "key": key, "machine": "another", "costs": {}, "outputs": [to_json("text")]}
    (tmp_path / f"{file_name('one@1')}.json").write_text(json.dumps(entry))
    assert cache.outputs(model, ENGINE) == (["text"], {})


def test_another_rendering_version_misses_the_cache(measured, tmp_path, monkeypatch):
    """The same chats may render to other token ids under another version of the renderer."""
    model, evaluation_run = measured
    OutputCache(tmp_path, evaluation_run).save(model, ENGINE, OUTPUTS, {})
    monkeypatch.setattr(output_cache, "RENDERING", RENDERING + 1)
    assert OutputCache(tmp_path, evaluation_run).outputs(model, ENGINE) is None
    monkeypatch.undo()
    assert OutputCache(tmp_path, evaluation_run).outputs(model, ENGINE) == (OUTPUTS, {})


def test_outputs_that_json_cannot_represent_are_not_cached(measured, tmp_path):
    @dataclass(frozen=True)
    class Custom:
        value: int

    model, evaluation_run = measured
    for outputs in ([Custom(1)], [{"tent", "boot"}], [[Label("tent")]]):
        OutputCache(tmp_path, evaluation_run).save(model, ENGINE, outputs, {})
    assert list(tmp_path.iterdir()) == []


def test_what_somebody_wrote_into_the_file_is_computed_again(measured, tmp_path):
    model, evaluation_run = measured
    cache, task = OutputCache(tmp_path, evaluation_run), model.task(evaluation_run)
    outputs = ["tent" for _ in evaluation_run.records]
    cache.save(model, ENGINE, outputs, {"ms per query": 2.0})
    assert cache.outputs(model, ENGINE, task) == (outputs, {"ms per query": 2.0})
    (file,) = tmp_path.glob("*.json")
    entry = json.loads(file.read_text())
    _, *others = entry["outputs"]
    for damage in (
        {"outputs": others},
        {"outputs": [{"label": {"value": "tent"}}, *others]},
        {"outputs": [{"grade": {"value": "1"}}, *others]},
        {"outputs": [{"value": ["tent"]}, *others]},
        {"outputs": [{"value": ""}, *others]},
        {"outputs": [["label"], *others]},
        {"outputs": [{"invalid": {"raw": 5, "reason": None}}, *others]},
        {"outputs": {}},
        {"outputs": [5] * 6},
        {"costs": {"ms per query": "soon"}},
        {"costs": [1]},
        {"costs": None},
    ):
        file.write_text(json.dumps({**entry, **damage}))
        assert OutputCache(tmp_path, evaluation_run).outputs(model, ENGINE, task) is None, damage
