"""What is chosen on validation rows: a temperature for the probabilities, and cut points on the expected grade.

* **Temperature** T: probabilities become p^(1/T), normalised; T is that of the least negative log-likelihood of the
  human grades (Guo et al., On Calibration of Modern Neural Networks, ICML 2017).
* **Cut points** (`cuts`): kept only where, chosen on other queries, they agree better with people than the likeliest
  grade does, in cross-validation over the validation queries.

With fewer rows or queries than any judge's calibration takes (`eval.judge.calibration`), nothing is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from searchlora.eval.judge.agreement import Floats
from searchlora.eval.judge.calibration import MINIMUM_LABELS, MINIMUM_QUERIES
from searchlora.outputs import Grade, InvalidOutput
from searchlora.records import Record
from searchlora.tasks.judgment.cuts import best_cuts, cut, kappa_of
from searchlora.tasks.judgment.reranking import expected

_FOLDS = 5
_LEAST = 1e-12


def tuned(
    records: Sequence[Record], outputs: Sequence[Grade | InvalidOutput], scale: Sequence[int]
) -> Mapping[str, Any]:
    """`temperature`; `cuts` where they help; and `validation`: the rows, the queries, and kappa without cut points and
    with some that were chosen on other queries. Empty where there is too little to choose from.
    """
    rows = [
        (record, output)
        for record, output in zip(records, outputs, strict=True)
        if isinstance(output, Grade) and output.probabilities is not None
    ]
    gold = [int(record["grade"]) for record, _ in rows]
    groups = [str(record["group"]) for record, _ in rows]
    queries = list(dict.fromkeys(groups))
    if len(rows) < MINIMUM_LABELS or len(queries) < MINIMUM_QUERIES:
        return {}
    found = temperature(np.array([output.probabilities for _, output in rows]), [scale.index(each) for each in gold])
    scores = [expected(settled(output, {"temperature": found}, scale), scale) for _, output in rows]
    plain = kappa_of(gold, [output.value for _, output in rows], scale)
    with_cuts = kappa_of(gold, _held_out(scores, gold, groups, queries, scale), scale)
    about = {"rows": len(rows), "queries": len(queries), "kappa": plain, "kappa with cuts": with_cuts}
    chosen = {"cuts": list(best_cuts(scores, gold, groups, scale))} if with_cuts > plain else {}
    return {"temperature": found, **chosen, "validation": about}


def settled(output: Grade, values: Mapping[str, Any], scale: Sequence[int]) -> Grade:
    """An output with what `tuned` chose applied; one without probabilities stays as it is.

    A reason that stood behind another grade than the cut points give is dropped.
    """
    if output.probabilities is None:
        return output
    if "temperature" in values:
        tempered = _tempered(np.array([output.probabilities]), values["temperature"])[0]
        output = replace(output, probabilities=tuple(tempered.tolist()))
    if "cuts" in values:
        grade = cut(expected(output, scale), values["cuts"], scale)
        output = replace(output, value=grade, reason=output.reason if grade == output.value else None)
    return output


def temperature(probabilities: Floats, gold: Sequence[int]) -> float:
    """The temperature, from 0.05 to 20, of the least negative log-likelihood.

    Args:
        probabilities: `(rows, grades)`.
        gold: Of each row, the place of people's grade on the scale.
    """
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(gold))

    def loss(log_temperature: float) -> float:
        given = _tempered(probabilities, float(np.exp(log_temperature)))[rows, gold]
        return float(-np.log(np.maximum(given, _LEAST)).mean())

    least, most = np.log(0.05), np.log(20.0)
    return float(np.exp(minimize_scalar(loss, bounds=(least, most), method="bounded").x))


def _tempered(probabilities: Floats, value: float) -> Floats:
    logs = np.log(np.maximum(probabilities, _LEAST)) / value
    weights = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _held_out(
    scores: Sequence[float], gold: Sequence[int], groups: Sequence[str], queries: Sequence[str], scale: Sequence[int]
) -> list[int]:
    """The grade of each row by cut points that were chosen without its query."""
    fold = {query: place % _FOLDS for place, query in enumerate(queries)}
    said = [scale[0]] * len(scores)
    for each in range(_FOLDS):
        seen = [place for place, group in enumerate(groups) if fold[group] != each]
        cuts = best_cuts(
            [scores[place] for place in seen], [gold[place] for place in seen], [groups[place] for place in seen], scale
        )
        for place, group in enumerate(groups):
            if fold[group] == each:
                said[place] = cut(scores[place], cuts, scale)
    return said
