"""Temperature and threshold: fitted on validation rows, applied to every scored label."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss

from searchlora.outputs import InvalidOutput, Label
from searchlora.tasks.intent import task
from searchlora.tasks.intent.tuning import tuned as tuned_values
from searchlora.tasks.intent.tuning import with_tuning

LABELS = ["a", "b", "c"]
CLOSED = {"kind": "label", "labels": LABELS, "out_of_scope": None}


def _records(labels):
    return [{"id": str(n), "group": str(n), "query": "?", "label": label} for n, label in enumerate(labels)]


def _sure_by(factor, rows=2000):
    """Rows whose labels are drawn with given probabilities, and outputs whose log-probabilities are `factor` times."""
    rng = np.random.default_rng(1)
    true = rng.dirichlet([1.0, 1.0, 1.0], size=rows)
    gold = [LABELS[rng.choice(3, p=row)] for row in true]
    predicted = true**factor / (true**factor).sum(axis=1, keepdims=True)
    return _records(gold), [Label(LABELS[int(row.argmax())], tuple(row.tolist())) for row in predicted]


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_recovers_the_overconfidence_factor(factor):
    records, outputs = _sure_by(factor)
    tuned = task.bound(CLOSED).tune(records, outputs)
    assert set(tuned) == {"temperature"}
    assert tuned["temperature"] == pytest.approx(factor, rel=0.1)
    gold = [record["label"] for record in records]
    bound = task.bound(CLOSED, tuned)
    before = log_loss(gold, [output.probabilities for output in outputs])
    after = log_loss(gold, [bound.apply_tuning(o, r).probabilities for o, r in zip(outputs, records, strict=True)])
    assert after <= before + 1e-9
    for near in (0.98, 1.02):
        other = {"temperature": tuned["temperature"] * near}
        assert after <= log_loss(gold, [with_tuning(CLOSED, other, output).probabilities for output in outputs])


def test_outputs_without_probabilities_are_unchanged():
    records = _records(["a", "b"])
    written = [Label("a"), InvalidOutput("x", "not one of the labels")]
    assert tuned_values(CLOSED, records, written) == {}
    for output in written:
        assert with_tuning(CLOSED, {"temperature": 2.0}, output) is output
    scored = Label("a", (0.5, 0.3, 0.2))
    assert with_tuning(CLOSED, {}, scored) is scored


# Out-of-scope


def _doubtful(rng, labels, rows, beyond):
    """Rows in scope are sure, rows out of scope less so, with an overlap."""
    gold, outputs = [], []
    for _ in range(rows):
        outside = rng.random() < 0.3
        weights = rng.dirichlet(np.full(len(labels), 0.6 if outside else 0.15))
        place = int(weights.argmax())
        gold.append(beyond if outside else labels[place])
        outputs.append(Label(labels[place], tuple(weights.tolist())))
    return _records(gold), outputs


@pytest.mark.slow
@pytest.mark.parametrize("among", [True, False])
def test_the_threshold_maximises_out_of_scope_f1(among):
    beyond = "oos"
    labels = [*LABELS, beyond] if among else LABELS
    settings = {"kind": "label", "labels": labels, "out_of_scope": beyond}
    records, outputs = _doubtful(np.random.default_rng(3), labels, 150, beyond)
    tuned = tuned_values(settings, records, outputs)
    gold = [record["label"] == beyond for record in records]

    def f1(below):
        predicted = [
            with_tuning(settings, {**tuned, "out_of_scope_below": below}, output).value == beyond for output in outputs
        ]
        return f1_score(gold, predicted)

    best = f1(tuned["out_of_scope_below"])
    assert best > f1(0.0) + 0.05
    assert best >= max(f1(below) for below in np.linspace(0, 1, 50))


def test_a_threshold_needs_in_scope_and_out_of_scope_rows():
    settings = {"kind": "label", "labels": LABELS, "out_of_scope": "oos"}
    records, outputs = _doubtful(np.random.default_rng(4), LABELS, 50, "oos")
    for keep in (True, False):
        rows = [
            (record, output)
            for record, output in zip(records, outputs, strict=True)
            if (record["label"] == "oos") is keep
        ]
        assert "out_of_scope_below" not in tuned_values(settings, *map(list, zip(*rows, strict=True)))
