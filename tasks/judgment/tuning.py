"""Tuning of a judge on validation records: temperature scaling, and thresholds on the expected grade.

* **Temperature**: temperature scaling of the probabilities towards the human grades, or towards the shares of the
  raters where a pair has several (`eval.calibration`). Raters who disagree make the judge less certain.
* **Thresholds** turn the expected grade into a grade: the most likely grade of a small model is almost always the most
  frequent one, which kappa discounts as chance agreement. They maximise unweighted kappa, and are the median of the
  best thresholds of bootstrap resamples of whole queries, which varies less between small samples. They are kept only
  if, in cross-validation over the validation queries, they agree better with human grades than the most likely grade.

Nothing is tuned on fewer than `MINIMUM_LABELS` rows or `MINIMUM_QUERIES` queries.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from searchlora.eval.agreement import Floats, disagreement, kappa
from searchlora.eval.calibration import apply_temperature, fit_temperature
from searchlora.outputs import Grade, InvalidOutput
from searchlora.records import Record
from searchlora.tasks.judgment.reranking import expected_grade

#: Fewest rows, and queries, to tune on.
MINIMUM_LABELS, MINIMUM_QUERIES = 50, 5

_FOLDS = 5

#: Candidate thresholds: this many quantiles of the scores, one value below all scores and one above.
_QUANTILES = 20
_RESAMPLES = 50
_SEED = 0


def tuned(
    records: Sequence[Record], outputs: Sequence[Grade | InvalidOutput], scale: Sequence[int]
) -> Mapping[str, Any]:
    """The tuned values of a judge; empty where the validation split is too small."""
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

    Of a record that a teacher has labelled, the teacher's probabilities. Zeros for a record without a grade.
    """
    if "grade" not in record:
        return (0.0,) * len(scale)
    given = record.get("votes") or record.get("shares") or {record["grade"]: 1}
    votes = {int(grade): count for grade, count in given.items()}
    return tuple(votes.get(grade, 0) / sum(votes.values()) for grade in scale)


def with_tuning(output: Grade, values: Mapping[str, Any], scale: Sequence[int]) -> Grade:
    """An output with tuned values applied; an output without probabilities is returned unchanged.

    A reason is dropped if the thresholds change the grade that it explains.
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


def grade_of(score: float, thresholds: Sequence[float], scale: Sequence[int]) -> int:
    """The grade of a score: the lowest below the first threshold, the next one from that threshold on, and so on."""
    return scale[bisect_right(thresholds, score)]


def best_thresholds(
    scores: Sequence[float], gold: Sequence[int], groups: Sequence[str], scale: Sequence[int]
) -> tuple[float, ...]:
    """Ascending thresholds, one fewer than there are grades; two equal thresholds skip the grade between them."""
    values = np.asarray(scores, dtype=float)
    inner = np.quantile(values, np.linspace(0, 1, _QUANTILES + 2)[1:-1])
    candidates = np.unique(np.concatenate([[values.min() - 1], inner, [values.max() + 1]]))
    choices = np.array(list(combinations_with_replacement(range(len(candidates)), len(scale) - 1)))
    below = _counts_below(values, candidates, gold, groups, scale)
    rng = np.random.default_rng(_SEED)
    weights = rng.multinomial(len(below), np.full(len(below), 1 / len(below)), size=_RESAMPLES)
    best = [candidates[choices[_best_choice(np.tensordot(row, below, axes=1), choices, scale)]] for row in weights]
    return tuple(float(threshold) for threshold in np.median(np.array(best), axis=0))


def cohen_kappa(gold: Sequence[int], predicted: Sequence[int], scale: Sequence[int]) -> float:
    """Unweighted Cohen's kappa over all grades; 0 where chance agreement is complete."""
    table = np.zeros((len(scale), len(scale) + 1))
    for true, grade in zip(gold, predicted, strict=True):
        table[scale.index(true), scale.index(grade)] += 1
    return float(np.nan_to_num(kappa(table, disagreement(scale))))


def _counts_below(
    values: Floats, candidates: Floats, gold: Sequence[int], groups: Sequence[str], scale: Sequence[int]
) -> Floats:
    """Number of rows with a score below each candidate, shape `(groups, candidates + 1, grades)`.

    The last entry along the candidates counts all rows.
    """
    group_index = {name: index for index, name in enumerate(dict.fromkeys(groups))}
    counts = np.zeros((len(group_index), len(candidates) + 1, len(scale)))
    bins = np.searchsorted(candidates, values, side="right")
    grades = np.array([scale.index(grade) for grade in gold])
    np.add.at(counts, (np.array([group_index[name] for name in groups]), bins, grades), 1)
    return counts.cumsum(axis=1)


def _best_choice(below: Floats, choices: Floats, scale: Sequence[int]) -> int:
    """Index of the choice of thresholds with the highest kappa; `choices` has shape `(choices, thresholds)`."""
    edges = np.concatenate([below[choices], np.broadcast_to(below[-1], (len(choices), 1, len(scale)))], axis=1)
    predicted = np.diff(edges, axis=1, prepend=0.0)  # (choices, predicted grade, gold grade)
    tables = np.concatenate([predicted.swapaxes(1, 2), np.zeros((len(choices), len(scale), 1))], axis=2)
    return int(np.nanargmax(np.nan_to_num(kappa(tables, disagreement(scale)))))
