"""Intent measures over all rows equal scikit-learn; an invalid output is wrong and predicts no label."""

from __future__ import annotations

import random

import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support
from sklearn.preprocessing import MultiLabelBinarizer

from searchlora.eval.comparison import compare
from searchlora.outputs import InvalidOutput, Label
from searchlora.task import EvaluationInput
from searchlora.tasks.intent import task

INVALID = InvalidOutput("?", "not one of the labels")


def _records(kind, answers):
    return [{"id": f"r{n}", "group": f"g{n // 2}", "query": "?", kind: answer} for n, answer in enumerate(answers)]


def _label_task(labels, beyond=None):
    return task.bound({"kind": "label", "labels": sorted(labels), "out_of_scope": beyond})


# One label


def _drawn(labels, rows, seed=0):
    rng = random.Random(seed)
    gold = [rng.choice(labels) for _ in range(rows)]
    predicted = [label if rng.random() < 0.6 else rng.choice([*labels, None]) for label in gold]
    return gold, predicted


def _evaluated(bound, gold, predicted):
    outputs = [INVALID if label is None else Label(label) for label in predicted]
    found = bound.evaluate(EvaluationInput(_records("label", gold), outputs))
    return found, ["invalid" if label is None else label for label in predicted]


def test_accuracy_and_macro_f1_equal_scikit_learn():
    labels = [f"l{n}" for n in range(6)]
    gold, predicted = _drawn(labels, 200)
    found, reported = _evaluated(_label_task(labels), gold, predicted)
    assert found.headline == "accuracy"
    assert found.mean("accuracy") == pytest.approx(accuracy_score(gold, reported))
    expected = f1_score(gold, reported, labels=labels, average="macro", zero_division=0)
    assert found.aggregates["macro-F1"].value == pytest.approx(expected)
    assert found.mean("invalid") == pytest.approx(reported.count("invalid") / 200)
    assert len(found.invalid) == reported.count("invalid")
    assert "calibration error" not in found.aggregates
    matrix = found.confusions["labels"]
    assert matrix.columns == (*labels, "invalid")
    assert sum(map(sum, matrix.counts)) == 200
    assert found.slices["label"]["r3"] == gold[3]
    assert found.clusters["r2"] == found.clusters["r3"] == "g1"


def test_out_of_scope_is_measured_as_its_own_class():
    gold, predicted = _drawn(["a", "b", "oos"], 120, seed=2)
    found, reported = _evaluated(_label_task(["a", "b"], "oos"), gold, predicted)
    precision, recall, f1, _ = (
        each[0] for each in precision_recall_fscore_support(gold, reported, labels=["oos"], zero_division=0)
    )
    assert found.aggregates["out-of-scope recall"].value == pytest.approx(recall)
    assert found.aggregates["out-of-scope precision"].value == pytest.approx(precision)
    assert found.aggregates["out-of-scope F1"].value == pytest.approx(f1)
    inside = [(true, label) for true, label in zip(gold, reported, strict=True) if true != "oos"]
    assert found.mean("accuracy in scope") == pytest.approx(accuracy_score(*zip(*inside, strict=True)))
    assert not found.notes


def test_calibration_error_uses_the_most_probable_label_before_the_threshold():
    records = _records("label", ["a", "a", "oos", "b"])
    outputs = [Label("a", (0.9, 0.1)), Label("oos", (0.7, 0.3)), Label("oos", (0.7, 0.3)), INVALID]
    found = _label_task(["a", "b"], "oos").evaluate(EvaluationInput(records, outputs))
    # Two bins: one row at 0.9, right; two at 0.7, one of which is right.
    assert found.aggregates["calibration error"].value == pytest.approx((0.1 + abs(2 * 0.7 - 1)) / 3)
    assert found.curves["the likeliest label"]
    assert found.mean("accuracy") == 0.5


def test_a_label_missing_from_training_is_reported():
    found = _label_task(["a", "b"]).evaluate(EvaluationInput(_records("label", ["a", "new"]), [Label("a"), Label("b")]))
    assert found.notes == ("Not in the training data, so never predicted: new.",)
    assert found.aggregates["macro-F1"].value == 0.5


def test_systems_with_and_without_probabilities_can_be_compared():
    gold, predicted = _drawn(["a", "b"], 60, seed=5)
    bound = _label_task(["a", "b"])
    scored = [Label(label or "a", (0.7, 0.3) if label != "b" else (0.2, 0.8)) for label in predicted]
    systems = {
        "plain": bound.evaluate(EvaluationInput(_records("label", gold), [Label("a")] * 60)),
        "scored": bound.evaluate(EvaluationInput(_records("label", gold), scored)),
    }
    found = compare(systems, candidate="scored", resamples=200)
    assert found.find("scored", "calibration error") is not None
    assert found.find("plain", "calibration error") is None
    assert {pair.measure for pair in found.comparisons} == {"accuracy", "macro-F1"}
    assert set(found.less_is_better) == {"invalid", "calibration error"}


# Several labels


def test_label_list_measures_equal_scikit_learn():
    rng = random.Random(7)
    labels = ["a", "b", "c", "d"]
    gold = [sorted(rng.sample(labels, rng.randint(0, 3))) for _ in range(80)]
    predicted = [each if rng.random() < 0.4 else sorted(rng.sample(labels, 2)) for each in gold]
    outputs = [INVALID if n % 9 == 0 else each for n, each in enumerate(predicted)]
    found = task.bound({"kind": "labels", "labels": labels}).evaluate(
        EvaluationInput(_records("labels", gold), outputs)
    )
    rows = MultiLabelBinarizer(classes=labels)
    true = rows.fit_transform(gold)
    reported = rows.transform([[] if isinstance(each, InvalidOutput) else each for each in outputs])
    for average in ("micro", "macro"):
        expected = f1_score(true, reported, average=average, zero_division=0)
        assert found.aggregates[f"{average}-F1"].value == pytest.approx(expected)
    assert found.mean("exact match") == pytest.approx(
        sum(one == other for one, other in zip(gold, outputs, strict=True)) / 80
    )
    assert found.mean("invalid") == pytest.approx(9 / 80)


# Objects

SCHEMA = {
    "type": "object",
    "properties": {"need": {"enum": ["buy", "ask", "else"]}, "sizes": {"type": "array"}, "most": {"type": "number"}},
}


def test_objects_are_measured_whole_by_field_and_by_value():
    gold = [{"need": "buy", "sizes": ["s", "m"], "most": 80}, {"need": "else"}, {"need": "ask", "sizes": []}]
    predicted = [{"most": 80.0, "need": "buy", "sizes": ["m"]}, INVALID, {"need": "ask", "sizes": []}]
    bound = task.bound({"kind": "object", "schema": SCHEMA, "out_of_scope": "else"})
    found = bound.evaluate(EvaluationInput(_records("object", gold), predicted))
    assert found.headline == "exact match"
    assert found.values["exact match"] == {"r0": 0.0, "r1": 0.0, "r2": 1.0}
    assert found.values["field: most"] == {"r0": 1.0, "r1": 0.0, "r2": 1.0}
    assert found.values["field: sizes"] == {"r0": 0.0, "r1": 0.0, "r2": 1.0}
    # Values: 4, 1 and 1 in gold; 3, 0 and 1 predicted, all correct.
    assert found.aggregates["F1 of parts"].value == pytest.approx(2 * 4 / (4 + 6))
    assert found.aggregates["out-of-scope recall"].value == 0.0
    assert found.mean("invalid") == pytest.approx(1 / 3)


def test_true_differs_from_one():
    bound = task.bound({"kind": "object", "schema": {"type": "object", "properties": {"a": {}}}})
    found = bound.evaluate(EvaluationInput(_records("object", [{"a": 1}, {"a": 1}]), [{"a": True}, {"a": 1.0}]))
    assert found.values["exact match"] == {"r0": 0.0, "r1": 1.0}
