"""Tuning of a judge on validation records: temperature scaling, and thresholds on the expected grade.

* **Temperature**: temperature scaling of the probabilities towards the human grades, or towards the shares of the
  raters where a pair has several (`eval.calibration`). Raters who disagree make the judge less certain.
* **Thresholds**: kept only if, in cross-validation over the validation queries, they agree better with human grades
  than the most likely grade does.

Nothing is tuned on fewer rows or queries than `eval.judge.calibration` requires.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from searchlora.eval.calibration import apply_temperature, fit_temperature
from searchlora.eval.judge.calibration import MINIMUM_LABELS, MINIMUM_QUERIES
from searchlora.outputs import Grade, InvalidOutput
from searchlora.records import Record
from searchlora.tasks.judgment.reranking import expected_grade
from searchlora.tasks.judgment.thresholds import best_thresholds, cohen_kappa, grade_of

_FOLDS = 5


def tuned(
    records: Sequence[Record], outputs: Sequence[Grade | InvalidOutput], scale: Sequence[int]
) -> Mapping[str, Any]:
    """The tuned values of a judge; empty where the validation split is too small.

    Args:
        records: Validation records with human grades.
        outputs: One output per record; outputs without probabilities are skipped.
        scale: The grades in ascending order.

    Returns:
        `temperature`; `thresholds`, if they help; and `validation`: the numbers of rows and queries, and the
        cross-validated kappa without and with thresholds.
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
    fitted = fit_temperature(
        np.array([output.probabilities for _, output in rows]),
        np.array([rater_shares(record, scale) for record, _ in rows]),
    )
    scores = [expected_grade(with_tuning(output, {"temperature": fitted}, scale), scale) for _, output in rows]
    plain = cohen_kappa(gold, [output.value for _, output in rows], scale)
    with_thresholds = cohen_kappa(gold, _cross_validated(scores, gold, groups, queries, scale), scale)
    validation = {
        "rows": len(rows),
        "queries": len(queries),
        "kappa": plain,
        "kappa with thresholds": with_thresholds,
    }
    chosen = {"thresholds": list(best_thresholds(scores, gold, groups, scale))} if with_thresholds > plain else {}
    return {"temperature": fitted, **chosen, "validation": validation}


def rater_shares(record: Record, scale: Sequence[int]) -> tuple[float, ...]:
    """Share of the raters who gave each grade of the scale; 1 for the grade of a record without votes.

    Examples:
        >>> rater_shares({"grade": 1, "votes": {"1": 3, "2": 1}}, (0, 1, 2)), rater_shares({"grade": 1}, (0, 1, 2))
        ((0.0, 0.75, 0.25), (0.0, 1.0, 0.0))
    """
    votes = {int(grade): count for grade, count in record.get("votes", {record["grade"]: 1}).items()}
    return tuple(votes.get(grade, 0) / sum(votes.values()) for grade in scale)


def with_tuning(output: Grade, values: Mapping[str, Any], scale: Sequence[int]) -> Grade:
    """An output with tuned values applied; an output without probabilities is returned unchanged.

    A reason is dropped if the thresholds change the grade that it explains.

    Args:
        values: `temperature` and `thresholds`, both optional. Manifests up to schema version 3 call the latter `cuts`.
    """
    if output.probabilities is None:
        return output
    if "temperature" in values:
        probabilities = apply_temperature(output.probabilities, values["temperature"])
        output = replace(output, probabilities=tuple(probabilities.tolist()))
    thresholds = values.get("thresholds", values.get("cuts"))
    if thresholds is not None:
        grade = grade_of(expected_grade(output, scale), thresholds, scale)
        output = replace(output, value=grade, reason=output.reason if grade == output.value else None)
    return output


def _cross_validated(
    scores: Sequence[float], gold: Sequence[int], groups: Sequence[str], queries: Sequence[str], scale: Sequence[int]
) -> list[int]:
    """The grade of each row, by thresholds chosen on the queries of the other folds."""
    fold_of = {query: index % _FOLDS for index, query in enumerate(queries)}
    predicted = [scale[0]] * len(scores)
    for fold in range(_FOLDS):
        training = [row for row, group in enumerate(groups) if fold_of[group] != fold]
        thresholds = best_thresholds(
            [scores[row] for row in training], [gold[row] for row in training], [groups[row] for row in training], scale
        )
        for row, group in enumerate(groups):
            if fold_of[group] == fold:
                predicted[row] = grade_of(scores[row], thresholds, scale)
    return predicted
