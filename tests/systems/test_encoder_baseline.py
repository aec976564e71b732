"""A baseline over a frozen encoder learns when it is first run, and its outputs are cached as those of any system."""

from __future__ import annotations

import numpy as np
import pytest

from searchlora.adapters.store import Store
from searchlora.encoder_baseline import EncoderBaseline
from searchlora.errors import BaseModelError
from searchlora.files.result_cache import ResultCache
from searchlora.systems.encoder_baseline import EncoderBaselineSystem, FrozenEncoder
from searchlora.systems.measure import outputs_of
from tests.factories import first_word, word_records


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
