"""Score thresholds that turn a continuous score into an ordinal grade, chosen to maximise Cohen's kappa.

The most likely grade of a small model is almost always the most frequent grade, which kappa discounts as chance
agreement; its expected grade still ranks passages well. Thresholds on the expected grade, or on any other score, turn
that ranking into grades.

Kappa is unweighted, over all grades. The chosen thresholds are the median of the best thresholds of bootstrap
resamples of whole queries, which varies less between small samples than the best thresholds of the sample itself.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np

from searchlora.eval.agreement import Floats, disagreement, kappa

#: Candidate thresholds: this many quantiles of the scores, one value below all scores and one above.
_QUANTILES = 20
_RESAMPLES = 50
_SEED = 0


def grade_of(score: float, thresholds: Sequence[float], scale: Sequence[int]) -> int:
    """The grade of a score: the lowest grade below the first threshold, the next one from that threshold on, and so on.

    Examples:
        >>> [grade_of(score, (0.5, 1.5), (0, 1, 3)) for score in (0.2, 0.5, 9)]
        [0, 1, 3]
    """
    return scale[bisect_right(thresholds, score)]


def best_thresholds(
    scores: Sequence[float], gold: Sequence[int], groups: Sequence[str], scale: Sequence[int]
) -> tuple[float, ...]:
    """Ascending thresholds, one fewer than there are grades; two equal thresholds skip the grade between them.

    Args:
        scores: One score per row.
        gold: The human grade of each row.
        groups: The query of each row; resampling keeps the rows of a query together.
        scale: The grades in ascending order.
    """
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
    """Unweighted Cohen's kappa over all grades; 0 where chance agreement is complete.

    Examples:
        >>> cohen_kappa([0, 1, 1, 0], [0, 1, 1, 0], (0, 1)), cohen_kappa([1, 1], [1, 1], (0, 1))
        (1.0, 0.0)
    """
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
