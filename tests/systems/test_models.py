"""Systems that are an LLM: token counts, decoding options, and what a fingerprint depends on."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from searchlora.adapters.store import Store
from searchlora.encoder_baseline import EncoderBaseline
from searchlora.errors import BaseModelError, UsageError
from searchlora.files.result_cache import ResultCache
from searchlora.inference.engine import Request
from searchlora.inference.engines import Engines
from searchlora.inference.local import LocalEngine
from searchlora.inference.settings import LocalSettings
from searchlora.outputs import InvalidOutput, Label, OneLabel
from searchlora.pipelines.stages.adapter import PRUNE_MARGIN
from searchlora.prompts import RENDERING, messages
from searchlora.systems import models
from searchlora.systems.encoder_baseline import EncoderBaselineSystem, FrozenEncoder
from searchlora.systems.fixed import FixedResults
from searchlora.systems.measure import outputs_of, run_system
from searchlora.systems.measures import TaskMeasures
from searchlora.systems.models import AdapterSystem, EngineSystem, ZeroShotSystem
from tests.factories import FirstWord, first_word, random_adapter, word_records

RECORDS = word_records(5)
LABELS = ("tent", "boot", "stove", "rope", "lamp")


class Named(FirstWord):
    def output(self, record):
        del record
        return OneLabel(LABELS)


@pytest.fixture(scope="module")
def engine(tiny_base) -> LocalEngine:
    return LocalEngine(tiny_base, precision="fp32")


@pytest.mark.parametrize("constrained", [True, False])
def test_generated_and_scored_tokens_are_counted(engine, tmp_path, constrained):
    task = Named(first_word(tmp_path).folder)
    found = EngineSystem("base", task, engine, max_new_tokens=7, constrained=constrained).run(RECORDS)
    requests = [Request(messages(task, record), None, 7) for record in RECORDS]
    if constrained:
        assert all(isinstance(output, Label) and output.probabilities for output in found.outputs)
        spent = [each.scored_tokens for each in engine.score(requests, [LABELS] * 5, prune_margin=PRUNE_MARGIN)]
    else:
        assert all(isinstance(output, InvalidOutput) for output in found.outputs)
        spent = [each.completion_tokens for each in engine.generate(requests)]
    prompts = [len(engine.renderer.prompt_ids(request.messages)) for request in requests]
    assert found.costs["new tokens per query"] == sum(spent) / 5
    assert found.costs["prompt tokens per query"] == sum(prompts) / 5


class OneOf(FirstWord):
    """Its labels are settings; it measures how sure the likeliest label of the measured task was."""

    default_settings: ClassVar = {"labels": list(LABELS)}

    def output(self, record):
        del record
        return OneLabel(tuple(self.settings["labels"]))

    def evaluate(self, inputs):
        found = super().evaluate(replace(inputs, outputs=[output.value for output in inputs.outputs]))
        spec = self.output(inputs.records[0])
        sure = {
            record["id"]: dict(zip(spec.labels, output.probabilities, strict=True))[output.value]
            for record, output in zip(inputs.records, inputs.outputs, strict=True)
            if output.probabilities is not None
        }
        return replace(found, values={**found.values, "sure": sure})


def test_probabilities_of_another_label_set_are_not_evaluated(engine, tmp_path):
    task = OneOf(first_word(tmp_path).folder)
    measures = TaskMeasures(task)
    fewer = task.bound({"labels": ["tent", "boot"]})
    found = run_system(EngineSystem("incumbent", fewer, engine), RECORDS, measures)
    assert all(len(output.probabilities) == 2 for output in found.outputs)
    again = run_system(FixedResults("incumbent", RECORDS, found.outputs, task=fewer), RECORDS, measures)
    for result in (found, again):
        assert set(result.evaluation.values["accuracy"]) == {record["id"] for record in RECORDS}
        assert result.evaluation.values["sure"] == {}
    candidate = run_system(EngineSystem("candidate", task, engine), RECORDS, measures)
    assert len(candidate.evaluation.values["sure"]) == len(RECORDS)


@pytest.fixture(scope="module")
def stored(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    task, store = first_word(folder / "task"), Store(folder / "store")
    return random_adapter(store, "one", task, tiny_base, folder / "made", seed=1), task, store


def fingerprint(stored, kind=AdapterSystem, engine=None, **options):
    adapter, task, store = stored
    return kind(adapter, task, Engines(store, engine), **options).fingerprint


def test_the_fingerprint_says_what_outputs_depend_on(stored, monkeypatch):
    adapter, task, store = stored
    changed = adapter.manifest.model_copy(update={"tuned": {"threshold": 0.5}})
    shorter = adapter.manifest.model_copy(update={"recipe": {**adapter.manifest.recipe, "max_new_tokens": 3}})
    kinds = {
        "the adapter": fingerprint(stored),
        "its base": fingerprint(stored, ZeroShotSystem),
        "unconstrained": fingerprint(stored, constrained=False),
        "tuned": fingerprint((replace(adapter, manifest=changed), task, store)),
        "shorter": fingerprint((replace(adapter, manifest=shorter), task, store)),
    }
    for key, value in (("quantization", "nf4"), ("precision", "fp32"), ("batch_invariant", False)):
        kinds[key] = fingerprint(stored, engine=LocalSettings(**{key: value}))
    with monkeypatch.context() as patch:
        patch.setattr(models, "RENDERING", RENDERING + 1)
        kinds["rendering"] = fingerprint(stored)
    assert len(set(kinds.values())) == len(kinds)
    assert fingerprint(stored) == kinds["the adapter"]


def test_sizes_of_an_engine_do_not_matter(stored):
    """Outputs are the same whatever the batch is."""
    smaller = LocalSettings(max_num_seqs=2, prefix_tokens=0, max_loras=3)
    assert fingerprint(stored, engine=smaller) == fingerprint(stored)


def test_a_row_is_known_by_its_prompt_and_an_output_by_its_form(stored):
    adapter, task, store = stored
    system = AdapterSystem(adapter, task, Engines(store))
    row = RECORDS[0]
    assert system.row_key(row) == system.row_key({**row, "id": "other", "group": "other"})
    assert system.row_key(row) != system.row_key({**row, "text": "another text"})
    assert system.accepts(row, "tent") and not system.accepts(row, Label("tent"))


def test_an_adapter_of_another_task_is_refused(stored, tmp_path):
    adapter, _, store = stored

    class Other(FirstWord):
        name = "other"

    with pytest.raises(UsageError, match="is an adapter for the task 'first-word', not for 'other'"):
        AdapterSystem(adapter, Other(first_word(tmp_path).folder), Engines(store))


class Nearest(EncoderBaseline):
    """The expected word of the nearest training row; `fits` counts how often it has learned."""

    name = "+ nearest"

    def __init__(self):
        self.fits = 0

    def fit(self, training, validation, encode):
        del validation
        self.fits += 1
        self.known = encode([row["text"] for row in training])
        self.answers = [row["text"].split()[0] for row in training]

    def predict(self, records, encode):
        return [self.answers[row] for row in (encode([one["text"] for one in records]) @ self.known.T).argmax(axis=1)]


@pytest.fixture
def system(encoder_base, tmp_path):
    task, encoder = first_word(tmp_path / "task"), FrozenEncoder(str(encoder_base.path))

    def made(baseline, rows, training):
        return EncoderBaselineSystem(baseline, encoder, task, rows, training, [], Store(tmp_path / "store"))

    return made


@pytest.mark.slow
def test_a_baseline_learns_once_and_its_outputs_are_reused(system, tmp_path):
    rows, cache = word_records(4), ResultCache(tmp_path / "results.sqlite")
    first = Nearest()
    outputs, reused = outputs_of(system(first, rows, rows), rows, cache)
    assert outputs.outputs == [row["text"].split()[0] for row in rows] and not reused and first.fits == 1
    assert outputs.costs["ms per query"] > 0
    again = Nearest()
    assert outputs_of(system(again, rows, rows), rows, cache) == (outputs, True) and again.fits == 0
    other = Nearest()
    assert not outputs_of(system(other, rows, rows[:2]), rows, cache)[1] and other.fits == 1


@pytest.mark.slow
def test_the_name_and_the_lineage_of_a_baseline_name_its_encoder(system, encoder_base):
    made, rows = Nearest(), word_records(2)
    name = encoder_base.path.name
    assert system(made, rows, rows).name == f"{name} + nearest"
    assert system(made, rows, rows).lineage.references == (f"base {name}",)


@pytest.mark.slow
def test_equal_texts_are_encoded_once_and_vectors_of_training_rows_are_kept(encoder_base, monkeypatch):
    frozen, encoded = FrozenEncoder(str(encoder_base.path)), []
    encode = frozen.encoder.encode
    monkeypatch.setattr(frozen.encoder, "encode", lambda texts: encoded.append(list(texts)) or encode(texts))
    vectors = frozen.encode_once(["red", "tent", "red"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1) and (vectors[0] == vectors[2]).all()
    frozen.encode_once(["tent", "boots"])
    frozen.encode(["red"])
    assert encoded == [["red", "tent"], ["boots"], ["red"]]


def test_an_encoder_that_does_not_exist_is_named_at_once():
    with pytest.raises(BaseModelError, match="no-such-encoder"):
        FrozenEncoder("no-such-encoder")
