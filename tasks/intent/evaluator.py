"""Evaluation of predicted intents: accuracy and F1, calibration, and detection of out-of-scope queries."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from searchlora.eval.aggregate import Aggregate, f1, macro_f1, micro_f1, precision, recall
from searchlora.eval.calibration import CurvePoint, calibration_curve, expected_calibration_error
from searchlora.eval.evaluation import Evaluation, confusion_matrix
from searchlora.outputs import Label
from searchlora.task import EvaluationInput
from searchlora.tasks.intent.settings import scope_field

CALIBRATION_ERROR = "calibration error"


def evaluate(settings: Mapping[str, Any], inputs: EvaluationInput) -> Evaluation:
    """Evaluate predicted intents over all records; an invalid output counts as wrong.

    Kind "label":
        accuracy (headline): 1 where the label is right; sliced by the true label, which gives the recall per label.
        macro-F1: unweighted mean of the F1 of each label that occurs in the data.
        calibration error: expected calibration error of the most likely label's probability before any threshold;
            only where labels were scored.
        out-of-scope recall, precision, F1; accuracy in scope: where some records are out of scope.
    Kind "labels":
        exact match (headline): 1 where the predicted set of labels is exactly the true one.
        micro-F1, macro-F1: over all labels of all records, and as the mean of the F1 of each label.
    Kind "object":
        exact match (headline): 1 where every field is right.
        field: NAME: 1 where the field is right, including a field that is rightly absent.
        F1 of parts: over the single values of all fields; values in lists and nested objects count one by one.
        out-of-scope recall, precision, F1: where the schema has an out-of-scope value and some records have it.
    All kinds:
        invalid: 1 where the output does not fit the label set or the schema.
    """
    kind = settings["kind"]
    predicted = inputs.valid
    gold = {str(record["id"]): record[kind] for record in inputs.records if kind in record}
    measured = _MEASURE[kind](settings, gold, {id_: predicted[id_] for id_ in gold}, inputs.clusters)
    return replace(
        measured,
        values={**measured.values, "invalid": {id_: float(answer is None) for id_, answer in predicted.items()}},
        slices={**measured.slices, **inputs.slices("kind")},
        invalid=inputs.invalid,
        less_is_better=("invalid", CALIBRATION_ERROR),
    )


# One label


def _measure_label(
    settings: Mapping[str, Any],
    gold: Mapping[str, str],
    outputs: Mapping[str, Label | None],
    clusters: Mapping[str, str],
) -> Evaluation:
    predicted = {id_: None if output is None else output.value for id_, output in outputs.items()}
    labels = sorted({*settings["labels"], *gold.values()})
    correct = {id_: float(predicted[id_] == label) for id_, label in gold.items()}
    oos_label = settings.get("out_of_scope")
    outside = {id_: label == oos_label for id_, label in gold.items()}
    values = {"accuracy": correct}
    if any(outside.values()):
        values["accuracy in scope"] = {id_: value for id_, value in correct.items() if not outside[id_]}
    calibration, curves = _calibration(settings["labels"], gold, outputs, clusters)
    unseen = sorted({*gold.values()} - {*settings["labels"], oos_label})
    return Evaluation(
        headline="accuracy",
        clusters=clusters,
        values={name: rows for name, rows in values.items() if rows},
        aggregates={
            "macro-F1": macro_f1(gold, predicted, labels),
            **calibration,
            **_out_of_scope(outside, {id_: label == oos_label for id_, label in predicted.items()}),
        },
        tested=("accuracy", "macro-F1"),
        slices={"label": dict(gold)},
        confusions={"labels": confusion_matrix(gold, predicted, labels)},
        curves=curves,
        notes=(f"Not in the training data, so never predicted: {', '.join(unseen)}.",) if unseen else (),
    )


def _calibration(
    labels: Sequence[str],
    gold: Mapping[str, str],
    outputs: Mapping[str, Label | None],
    clusters: Mapping[str, str],
) -> tuple[dict[str, Aggregate], dict[str, list[CurvePoint]]]:
    """Calibration of the most likely label's probability; empty where no output has probabilities."""
    probability: dict[str, float] = {}
    correct: dict[str, bool] = {}
    for id_, output in outputs.items():
        if output is not None and output.probabilities is not None:
            highest = max(output.probabilities)
            probability[id_] = min(1.0, highest)
            correct[id_] = labels[output.probabilities.index(highest)] == gold[id_]
    if not probability:
        return {}, {}
    return (
        {CALIBRATION_ERROR: expected_calibration_error(probability, correct)},
        {"the likeliest label": calibration_curve(probability, correct, clusters)},
    )


# Several labels


def _measure_labels(
    settings: Mapping[str, Any],
    gold_labels: Mapping[str, Sequence[str]],
    outputs: Mapping[str, Sequence[str] | None],
    clusters: Mapping[str, str],
) -> Evaluation:
    gold = {id_: frozenset(labels) for id_, labels in gold_labels.items()}
    predicted = {id_: None if labels is None else frozenset(labels) for id_, labels in outputs.items()}
    return Evaluation(
        headline="exact match",
        clusters=clusters,
        values={"exact match": {id_: float(predicted[id_] == labels) for id_, labels in gold.items()}},
        aggregates={
            "micro-F1": _set_f1(gold, predicted),
            "macro-F1": macro_f1(gold, predicted, sorted({*settings["labels"]}.union(*gold.values()))),
        },
        tested=("exact match", "micro-F1"),
    )


# A JSON object


def _measure_object(
    settings: Mapping[str, Any],
    gold: Mapping[str, Mapping[str, Any]],
    predicted: Mapping[str, Mapping[str, Any] | None],
    clusters: Mapping[str, str],
) -> Evaluation:
    values = {"exact match": {id_: float(_equal(answer, predicted[id_])) for id_, answer in gold.items()}}
    for name in settings["schema"]["properties"]:
        values[f"field: {name}"] = {
            id_: float((other := predicted[id_]) is not None and _equal(answer.get(name), other.get(name)))
            for id_, answer in gold.items()
        }
    parts_f1 = _set_f1(
        {id_: frozenset(parts(answer)) for id_, answer in gold.items()},
        {id_: None if answer is None else frozenset(parts(answer)) for id_, answer in predicted.items()},
    )
    oos_label = settings.get("out_of_scope")
    oos_field = scope_field(settings["schema"], oos_label) if oos_label is not None else None
    out_of_scope = (
        _out_of_scope(
            {id_: answer.get(oos_field) == oos_label for id_, answer in gold.items()},
            {id_: answer is not None and answer.get(oos_field) == oos_label for id_, answer in predicted.items()},
        )
        if oos_field is not None
        else {}
    )
    return Evaluation(
        headline="exact match",
        clusters=clusters,
        values=values,
        aggregates={"F1 of parts": parts_f1, **out_of_scope},
        tested=("exact match", "F1 of parts"),
    )


def parts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The single values of a JSON value, each with its path; null, an empty list and an empty object have none."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from parts(inner, f"{path}/{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from parts(inner, f"{path}[]")
    elif value is not None:
        yield path, _canonical(value)


def _equal(one: Any, other: Any) -> bool:
    return _canonical(one) == _canonical(other)


def _canonical(value: Any) -> str:
    """JSON text that is equal for equal values: 80 and 80.0, fields in any order; 1 and true differ."""
    return json.dumps(_normalised(value), sort_keys=True, ensure_ascii=False)


def _normalised(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _normalised(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_normalised(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Shared


def _set_f1(gold: Mapping[str, frozenset[Any]], predicted: Mapping[str, frozenset[Any] | None]) -> Aggregate:
    """Micro-F1 over the elements of sets; an invalid prediction counts as the empty set."""
    valid = {id_: predicted[id_] or frozenset() for id_ in gold}
    return micro_f1(
        {id_: float(len(elements & valid[id_])) for id_, elements in gold.items()},
        {id_: float(len(elements)) for id_, elements in valid.items()},
        {id_: float(len(elements)) for id_, elements in gold.items()},
    )


def _out_of_scope(gold: Mapping[str, bool], predicted: Mapping[str, bool]) -> dict[str, Aggregate]:
    """Recall, precision and F1 of out-of-scope detection; empty where no record is out of scope."""
    if not any(gold.values()):
        return {}
    return {
        "out-of-scope recall": recall(gold, predicted),
        "out-of-scope precision": precision(gold, predicted),
        "out-of-scope F1": f1(gold, predicted),
    }


_MEASURE: Mapping[str, Callable[..., Evaluation]] = {
    "label": _measure_label,
    "labels": _measure_labels,
    "object": _measure_object,
}
