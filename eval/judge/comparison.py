"""Which judges agree with people better than which: paired differences over the same pairs, corrected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from searchlora.errors import UsageError
from searchlora.eval.judge.labels import Labels, common, only, pair, size
from searchlora.eval.judge.measures import KAPPA, judge_measures, named
from searchlora.eval.resampling import intervals, swap_p
from searchlora.eval.significance import correct
from searchlora.eval.trec import Qrels

#: Swaps per comparison of the family, so that the smallest p there can be survives a correction by Holm.
_SWAPS_PER_PAIR = 200


@dataclass(frozen=True)
class JudgeDifference:
    """Judge a less judge b, over the same n pairs of the same queries.

    Attributes:
        low, high: The 95% interval of this difference alone, not corrected.
        p: Two-sided, by swapping the labels of the two judges query by query.
        p_corrected: Over all differences of the comparison.
    """

    a: str
    b: str
    measure: str
    difference: float
    low: float
    high: float
    p: float
    p_corrected: float
    n: int
    queries: int


@dataclass(frozen=True)
class JudgeComparison:
    """What `compare_judges` found.

    Attributes:
        differences: Each two judges, the better one as a, by falling difference.
        correction: How `p_corrected` was made.
        swaps: How many random swaps a p is from.
        left_out: Human-graded pairs that some judge has no label for.
    """

    measure: str
    differences: tuple[JudgeDifference, ...]
    correction: str
    swaps: int
    left_out: int


def compare_judges(
    human: Qrels,
    judges: Mapping[str, Labels],
    *,
    scale: Sequence[int] = (0, 1, 2, 3),
    relevant: int = 2,
    measure: str = KAPPA,
    correction: str = "holm",
    resamples: int = 10_000,
    seed: int = 0,
) -> JudgeComparison:
    """Compare every two judges over the pairs that people and all judges labelled.

    Args:
        human: The grades held to be right.
        judges: name -> labels; None, and a grade outside the scale, is an invalid answer and counts as the worst.
        measure: A name of `judge_measures`. Of `mae` the lower is the better; elsewhere the higher is put first.
        correction: `holm` or `bh`.
        resamples: Of the intervals; the tests take more where there are many comparisons.

    Raises:
        UsageError: for fewer than two judges, an unknown measure, or one without a value for some judge.
        DataError: when a human grade is outside the scale, or no pair is common to all.
    """
    if len(judges) < 2:
        raise UsageError("a comparison needs two judges")
    shared = common([human, *judges.values()])
    people = {topic: {d: grade for d, grade in row.items() if (topic, d) in shared} for topic, row in human.items()}
    paired = [pair(people, only(labels, shared), scale) for labels in judges.values()]
    tables = np.stack([each.tables for each in paired], axis=1)
    chosen = named(judge_measures(paired[0].scale, relevant), measure)
    values = chosen.statistic(tables.sum(axis=0))
    if np.isnan(values).any():
        nameless = [name for name, value in zip(judges, values, strict=True) if np.isnan(value)]
        raise UsageError(f"there is no {measure} of {', '.join(nameless)}: chance alone would agree fully")
    ranks = np.argsort(values if measure.startswith("mae") else -values, kind="stable").tolist()
    pairs = list(combinations(ranks, 2))
    signs = np.zeros((len(pairs), len(judges)))
    for row, (a, b) in zip(signs, pairs, strict=True):
        row[a], row[b] = 1, -1
    reach = chosen.bounds[1] - chosen.bounds[0]
    found = intervals(
        chosen.statistic, tables, bounds=(-reach, reach), contrasts=signs, resamples=resamples, seed=seed
    )  # fmt: skip
    swaps = max(resamples, _SWAPS_PER_PAIR * len(pairs))
    chances = swap_p(chosen.statistic, tables, pairs, resamples=swaps, seed=seed)
    names = list(judges)
    differences = [
        JudgeDifference(
            names[a], names[b], measure, float(shift), float(low), float(high), p, corrected, paired[0].n, len(tables)
        )
        for (a, b), (shift, low, high), p, corrected in zip(
            pairs, found, chances, correct(chances, correction), strict=True
        )
    ]
    return JudgeComparison(
        measure=measure,
        differences=tuple(sorted(differences, key=lambda each: -abs(each.difference))),
        correction=correction,
        swaps=swaps,
        left_out=size(human) - len(shared),
    )
