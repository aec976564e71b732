"""Probabilities of labels: their temperature and the threshold of out-of-scope, chosen on validation rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchlora.eval.calibration import apply_temperature, fit_temperature
from searchlora.outputs import Label
from searchlora.records import Record


def tuned_on(settings: Mapping[str, Any], records: Sequence[Record], outputs: Sequence[Any]) -> dict[str, float]:
    """`temperature` and, where validation has rows in scope and out of it, `out_of_scope_below`.

    The temperature T makes probabilities proportional to p^(1/T) and minimises the mean negative log-likelihood of the
    true labels (Guo et al. 2017, On Calibration of Modern Neural Networks). The threshold is on the highest probability
    of a label in scope, after that: below it the answer is out-of-scope. It is the one with the best F1 of that class,
    the lowest such where there are several; 0 where no threshold is better than none.

    Args:
        records: With their true labels.
        outputs: One per record; those without probabilities (invalid, or not scored) are passed over.
    """
    scored = [
        (record["label"], output.probabilities)
        for record, output in zip(records, outputs, strict=True)
        if "label" in record and isinstance(output, Label) and output.probabilities is not None
    ]
    place = {label: index for index, label in enumerate(settings.get("labels", ()))}
    known = [(place[label], probabilities) for label, probabilities in scored if label in place]
    if not known:
        return {}
    temperature = fit_temperature(np.array([given for _, given in known]), [index for index, _ in known])
    beyond = settings.get("out_of_scope")
    gold = np.array([label == beyond for label, _ in scored])
    if beyond is None or gold.all() or not gold.any():
        return {"temperature": temperature}
    labels = [_settled(settings["labels"], beyond, given, temperature, 0.0) for _, given in scored]
    said = np.array([label.value == beyond for label in labels])
    highest = np.array([_in_scope(settings["labels"], beyond, label.probabilities or ()) for label in labels])
    return {"temperature": temperature, "out_of_scope_below": _threshold(highest, said, gold)}


def settled(settings: Mapping[str, Any], tuned: Mapping[str, Any], output: Any) -> Any:
    """A scored label under the tuned temperature and threshold; anything else as it is."""
    if "temperature" not in tuned or not isinstance(output, Label) or output.probabilities is None:
        return output
    below = float(tuned.get("out_of_scope_below", 0.0))
    beyond = settings.get("out_of_scope")
    return _settled(settings["labels"], beyond, output.probabilities, float(tuned["temperature"]), below)


def _settled(
    labels: Sequence[str], beyond: str | None, given: Sequence[float], temperature: float, below: float
) -> Label:
    probabilities = tuple(apply_temperature(given, temperature).tolist())
    if beyond is not None and _in_scope(labels, beyond, probabilities) < below:
        return Label(beyond, probabilities)
    return Label(labels[probabilities.index(max(probabilities))], probabilities)


def _in_scope(labels: Sequence[str], beyond: str, probabilities: Sequence[float]) -> float:
    """The highest probability of a label in scope."""
    return max(value for label, value in zip(labels, probabilities, strict=True) if label != beyond)


def _threshold(highest: NDArray[np.float64], said: NDArray[np.bool_], gold: NDArray[np.bool_]) -> float:
    """The threshold with the best F1 of `gold`; `said` are the rows that are out-of-scope whatever the threshold."""
    steps = np.unique(highest)
    candidates: list[float] = [0.0, *((steps[:-1] + steps[1:]) / 2).tolist(), 1.0]

    def f1(below: float) -> float:
        found = said | (highest < below)
        return float(2 * (found & gold).sum() / (found.sum() + gold.sum()))

    return max(candidates, key=f1)
