"""One label of many: accuracy, macro-F1, calibration, out-of-scope, and which labels are taken for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from searchlora.eval.labels import Curve, confusion_of, curve_of
from searchlora.eval.pooled import Pooled, expected_calibration_error, macro_f1
from searchlora.tasks.intent.figures import Answered, Figures, out_of_scope_figures

CALIBRATION_ERROR = "calibration error"


def of(settings: Mapping[str, Any], rows: Answered) -> Figures:
    """Measures of single labels.

    Measures:
        accuracy: 1 where the label is right, the headline; sliced by the true label (so: recall of each label).
        macro-F1 (pooled): the mean F1 of the labels that stand in the data, each of the same weight.
        calibration error (pooled): expected calibration error of the likeliest label's probability, 15 bins of equal
            width (Guo et al. 2017), whatever a threshold made of it; only where labels were scored.
        out-of-scope recall, precision, F1 (pooled), accuracy in scope: where there are rows out of scope.
    """
    gold: Mapping[str, str] = rows.gold
    said = {id_: None if answer is None else answer.value for id_, answer in rows.said.items()}
    labels = sorted({*settings["labels"], *gold.values()})
    correct = {id_: float(said[id_] == label) for id_, label in gold.items()}
    values = {"accuracy": correct}
    beyond = settings.get("out_of_scope")
    outside = {id_: label == beyond for id_, label in gold.items()}
    if any(outside.values()):
        values["accuracy in scope"] = {id_: value for id_, value in correct.items() if not outside[id_]}
    calibrated, curves = _calibration(settings["labels"], rows)
    unseen = sorted({*gold.values()} - {*settings["labels"], beyond})
    return Figures(
        headline="accuracy",
        values={name: of_rows for name, of_rows in values.items() if of_rows},
        pooled={
            "macro-F1": macro_f1(gold, said, labels),
            **calibrated,
            **out_of_scope_figures(outside, {id_: label == beyond for id_, label in said.items()}),
        },
        tested=("accuracy", "macro-F1"),
        slices={"label": dict(gold)},
        confusions={"labels": confusion_of(gold, said, labels)},
        curves=curves,
        notes=(f"In no training row and so never said: {', '.join(unseen)}.",) if unseen else (),
    )


def _calibration(labels: Sequence[str], rows: Answered) -> tuple[dict[str, Pooled], dict[str, Curve]]:
    probability: dict[str, float] = {}
    correct: dict[str, bool] = {}
    for id_, answer in rows.said.items():
        if answer is not None and answer.probabilities is not None:
            probability[id_] = min(1.0, max(answer.probabilities))
            correct[id_] = labels[answer.probabilities.index(max(answer.probabilities))] == rows.gold[id_]
    if not probability:
        return {}, {}
    return (
        {CALIBRATION_ERROR: expected_calibration_error(probability, correct)},
        {"the likeliest label": curve_of(probability, correct, rows.groups)},
    )
