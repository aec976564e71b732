"""Baselines of the intent task, fitted on the training split."""

from __future__ import annotations

import json

import numpy as np
import pytest

from searchlora.data.dataset import load_dataset
from searchlora.errors import UsageError
from searchlora.tasks.intent import task
from searchlora.tasks.intent.baselines import COMMONEST, LINEAR, NEAREST
from tests.factories import native_dataset

WORDS = {"card": ["lost card", "new card", "my card"], "rate": ["exchange rate", "rate of euro", "what rate"]}


def _encode(texts):
    """Vectors of length 1 in which each word of `WORDS` has a dimension of its own."""
    words = sorted({word for phrases in WORDS.values() for phrase in phrases for word in phrase.split()})
    counts = np.array([[1e-3 + text.split().count(word) for word in words] for text in texts], dtype=np.float32)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def _over_encoder(data, queries):
    """The answers of the baseline over the encoder, on the dataset that `_found` has built."""
    dataset = load_dataset(data)
    (baseline,) = task.bound(dataset.settings).encoder_baselines()
    baseline.fit(dataset.records("train"), dataset.records("validation"), _encode)
    return baseline.predict([{"query": query} for query in queries], _encode)


def _found(tmp_path, answer, queries, **options):
    """The baselines' answers to queries, on a dataset in which a word gives the answer away."""
    rows = []
    for split, times in (("train", 12), ("validation", 4)):
        for number in range(times):
            for label, texts in WORDS.items():
                text = f"{texts[number % 3]} {split} {number}"
                row = {"id": f"{split}-{label}-{number}", "group": text, "query": text, "split": split}
                rows.append({**row, **answer(label)})
    rows += [{**rows[0], "id": "more", "group": "more card", "query": "more card"}]
    dataset = load_dataset(native_dataset(task, tmp_path / "data", rows, options=options))
    records = [{"id": str(n), "group": str(n), "query": query} for n, query in enumerate(queries)]
    return task.bound(dataset.settings).baselines(records, dataset.folder)


def test_baselines_of_labels(tmp_path):
    found = _found(tmp_path, lambda label: {"label": label}, ["a card please", "euro rate"])
    assert [output.value for output in found[COMMONEST]] == ["card", "card"]
    assert [output.value for output in found[LINEAR]] == ["card", "rate"]
    for output in found[LINEAR]:
        assert sum(output.probabilities) == pytest.approx(1)
        assert max(output.probabilities) > 0.8
    card, rate = _over_encoder(tmp_path / "data", ["a card please", "euro rate"])
    assert (card.value, rate.value) == ("card", "rate")
    assert sum(rate.probabilities) == pytest.approx(1) and max(rate.probabilities) > 0.8


def test_a_baseline_over_an_encoder_predicts_only_labels_of_the_adapter(tmp_path):
    _found(tmp_path, lambda label: {"label": label}, ["card"])
    dataset = load_dataset(tmp_path / "data")

    def predicted(*labels):
        (baseline,) = task.bound({"kind": "label", "labels": labels, "out_of_scope": None}).encoder_baselines()
        baseline.fit(dataset.records("train"), dataset.records("validation"), _encode)
        (output,) = baseline.predict([{"query": "rate"}], _encode)
        return output

    assert predicted("account", "card", "rate").value == "rate"
    assert predicted("account", "card").value == "card"
    assert predicted("account").reason == "no training row has a label of the adapter"


def test_a_label_without_training_rows_gets_probability_zero(tmp_path):
    (tmp_path / "labels.txt").write_text("rate\nabroad\ncard\n", encoding="utf-8")
    labels = str(tmp_path / "labels.txt")
    found = _found(tmp_path, lambda label: {"label": label}, ["card"], labels=labels)
    (output,) = found[LINEAR]
    assert output.value == "card"
    assert output.probabilities[0] == pytest.approx(0)


def test_a_dataset_with_labels_unknown_to_the_adapter(tmp_path):
    _found(tmp_path, lambda label: {"label": label}, ["card"])
    records = [{"id": "1", "group": "1", "query": "card"}]
    older = task.bound({"kind": "label", "labels": ["account", "card"], "out_of_scope": None})
    assert set(older.baselines(records, tmp_path / "data")) == {COMMONEST}
    both = task.bound({"kind": "label", "labels": ["account", "card", "rate"], "out_of_scope": None})
    assert both.baselines(records, tmp_path / "data")[LINEAR][0].value == "card"
    with pytest.raises(UsageError, match="answers with 'label', the dataset has 'object'"):
        both.check_dataset({"kind": "object"})


def test_baselines_of_label_lists(tmp_path):
    found = _found(tmp_path, lambda label: {"labels": sorted([label, "bank"])}, ["a card please", "euro rate"])
    assert found[COMMONEST] == [["bank", "card"]] * 2
    assert found[LINEAR] == [["bank", "card"], ["bank", "rate"]]
    assert _over_encoder(tmp_path / "data", ["a card please", "euro rate"]) == found[LINEAR]


def test_baselines_of_objects(tmp_path):
    schema = {"type": "object", "properties": {"about": {"enum": ["card", "rate"]}}}
    (tmp_path / "schema.json").write_text(json.dumps(schema), encoding="utf-8")
    options = {"schema": str(tmp_path / "schema.json")}
    found = _found(tmp_path, lambda label: {"object": {"about": label}}, ["lost card", "euro rate"], **options)
    assert found[COMMONEST] == [{"about": "card"}] * 2
    assert found[NEAREST] == [{"about": "card"}, {"about": "rate"}]
    assert _over_encoder(tmp_path / "data", ["lost card", "euro rate"]) == found[NEAREST]
