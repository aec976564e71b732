"""From a score to a grade: cut points chosen so that the grades agree best with people's, by Cohen's kappa.

A small model's likeliest grade is nearly always the commonest one, which kappa counts as chance; its expected grade
still orders passages. Cut points on it, or on any other score, turn the order into grades.

Kappa over all grades is unweighted, as the headline is. What is chosen is the median of the best cut points of
resamples of whole queries, which moves less from one small sample to another than the best of the sample itself.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np

from searchlora.eval.judge.agreement import Floats, disagreement, kappa

#: Places where a cut can be: so many quantiles of the scores, and one below and one above all of them.
_PLACES = 20
_RESAMPLES = 50


def cut(score: float, cuts: Sequence[float], scale: Sequence[int]) -> int:
    """The grade of a score: the lowest one below the first cut point, the next one from there on, and so on."""
    return scale[bisect_right(cuts, score)]


def best_cuts(
    scores: Sequence[float], gold: Sequence[int], groups: Sequence[str], scale: Sequence[int], *, seed: int = 0
) -> tuple[float, ...]:
    """Cut points, one fewer than grades and rising; two that are equal leave the grade between them out.

    Args:
        scores, gold, groups: Of each row: its score, people's grade, and the query.
        scale: The grades there are, rising.
    """
    values = np.asarray(scores, dtype=float)
    inner = np.quantile(values, np.linspace(0, 1, _PLACES + 2)[1:-1])
    places = np.unique(np.concatenate([[values.min() - 1], inner, [values.max() + 1]]))
    chosen = np.array(list(combinations_with_replacement(range(len(places)), len(scale) - 1)))
    below = _below(values, places, gold, groups, scale)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(below), np.full(len(below), 1 / len(below)), size=_RESAMPLES)
    found = [places[chosen[_best(np.tensordot(times, below, axes=1), chosen, scale)]] for times in drawn]
    return tuple(float(each) for each in np.median(np.array(found), axis=0))


def kappa_of(gold: Sequence[int], said: Sequence[int], scale: Sequence[int]) -> float:
    """Cohen's kappa over all grades; 0 where chance alone would agree fully."""
    table = np.zeros((len(scale), len(scale) + 1))
    for true, given in zip(gold, said, strict=True):
        table[scale.index(true), scale.index(given)] += 1
    return float(np.nan_to_num(kappa(table, disagreement(scale))))


def _below(values: Floats, places: Floats, gold: Sequence[int], groups: Sequence[str], scale: Sequence[int]) -> Floats:
    """Rows of each group and each of people's grades with a score below each place: `(groups, places + 1, grades)`.

    The last entry of the places is all rows.
    """
    of = {name: index for index, name in enumerate(dict.fromkeys(groups))}
    counts = np.zeros((len(of), len(places) + 1, len(scale)))
    bins = np.searchsorted(places, values, side="right")
    grades = np.array([scale.index(grade) for grade in gold])
    np.add.at(counts, (np.array([of[name] for name in groups]), bins, grades), 1)
    return counts.cumsum(axis=1)


def _best(below: Floats, chosen: Floats, scale: Sequence[int]) -> int:
    """The place in `chosen` (choices, cuts) of the cut points with the greatest kappa."""
    edges = np.concatenate([below[chosen], np.broadcast_to(below[-1], (len(chosen), 1, len(scale)))], axis=1)
    said = np.diff(edges, axis=1, prepend=0.0)  # (choices, grade said, grade of people)
    tables = np.concatenate([said.swapaxes(1, 2), np.zeros((len(chosen), len(scale), 1))], axis=2)
    return int(np.nanargmax(np.nan_to_num(kappa(tables, disagreement(scale)))))
