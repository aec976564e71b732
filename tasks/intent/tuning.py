"""Tuning of an intent classifier on validation records: temperature scaling, and the out-of-scope threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchlora.eval.calibration import apply_temperature, fit_temperature
from searchlora.outputs import Label
from searchlora.records import Record


def tuned(settings: Mapping[str, Any], records: Sequence[Record], outputs: Sequence[Any]) -> dict[str, float]:
    """The tuned values of a classifier; empty where no output has probabilities.

    The threshold is on the highest probability of an in-scope label after temperature scaling: below it the prediction
    is the out-of-scope label. The chosen threshold maximises the F1 of that label; of several it is the lowest, and 0
    where no threshold helps.
    """
    scored = [
        (record["label"], output.probabilities)
        for record, output in zip(records, outputs, strict=True)
        if "label" in record and isinstance(output, Label) and output.probabilities is not None
    ]
    index = {label: number for number, label in enumerate(settings.get("labels", ()))}
    known = [(index[label], probabilities) for label, probabilities in scored if label in index]
    if not known:
        return {}
    temperature = fit_temperature(np.array([row for _, row in known]), [label for label, _ in known])
    oos_label = settings.get("out_of_scope")
    is_oos = np.array([label == oos_label for label, _ in scored])
    if oos_label is None or is_oos.all() or not is_oos.any():
        return {"temperature": temperature}
    labels = [_label(settings["labels"], oos_label, row, temperature, 0.0) for _, row in scored]
    predicted = np.array([label.value == oos_label for label in labels])
    highest = np.array(
        [_highest_in_scope(settings["labels"], oos_label, label.probabilities or ()) for label in labels]
    )
    return {"temperature": temperature, "out_of_scope_below": _best_threshold(highest, predicted, is_oos)}


def with_tuning(settings: Mapping[str, Any], values: Mapping[str, Any], output: Any) -> Any:
    """A scored label with tuned temperature and threshold applied; any other output unchanged."""
    if "temperature" not in values or not isinstance(output, Label) or output.probabilities is None:
        return output
    threshold = float(values.get("out_of_scope_below", 0.0))
    oos_label = settings.get("out_of_scope")
    return _label(settings["labels"], oos_label, output.probabilities, float(values["temperature"]), threshold)


def _label(
    labels: Sequence[str],
    oos_label: str | None,
    probabilities: Sequence[float],
    temperature: float,
    threshold: float,
) -> Label:
    scaled = tuple(apply_temperature(probabilities, temperature).tolist())
    if oos_label is not None and _highest_in_scope(labels, oos_label, scaled) < threshold:
        return Label(oos_label, scaled)
    return Label(labels[scaled.index(max(scaled))], scaled)


def _highest_in_scope(labels: Sequence[str], oos_label: str, probabilities: Sequence[float]) -> float:
    return max(value for label, value in zip(labels, probabilities, strict=True) if label != oos_label)


def _best_threshold(highest: NDArray[np.float64], predicted: NDArray[np.bool_], is_oos: NDArray[np.bool_]) -> float:
    """The threshold on `highest` with the best F1 of `is_oos`; `predicted` rows are out of scope at any threshold."""
    steps = np.unique(highest)
    candidates: list[float] = [0.0, *((steps[:-1] + steps[1:]) / 2).tolist(), 1.0]

    def f1(threshold: float) -> float:
        positive = predicted | (highest < threshold)
        return float(2 * (positive & is_oos).sum() / (positive.sum() + is_oos.sum()))

    return max(candidates, key=f1)
