"""Paired comparison of judges: differences of their agreement with human grades, with corrected p-values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from searchlora.errors import UsageError
from searchlora.eval.grade_measures import KAPPA, grade_measures
from searchlora.eval.judge.labels import Labels, common_pairs, pair, restrict, size
from searchlora.eval.resampling import intervals, swap_p
from searchlora.eval.significance import correct, disagreement_note
from searchlora.eval.trec import Qrels

#: Random swaps per comparison of the family, so that the smallest possible p survives a Holm correction.
_SWAPS_PER_PAIR = 200


@dataclass(frozen=True)
class JudgeDifference:
    """Judge a minus judge b, over the same n pairs of the same queries.

    Attributes:
        low, high: 95% interval of this difference alone, not corrected for multiple comparisons.
        p: Two-sided p-value of a randomisation test that swaps the labels of both judges by query.
        p_corrected: Corrected over all differences of the comparison.
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
    """Result of `compare_judges`.

    Attributes:
        differences: Every two judges, the better one as `a`, sorted by decreasing absolute difference.
        correction: Method of `p_corrected`.
        swaps: Number of random swaps behind a p-value.
        left_out: Number of human-graded pairs without a label of some judge.
    """

    measure: str
    differences: tuple[JudgeDifference, ...]
    correction: str
    swaps: int
    left_out: int

    @property
    def disagreements(self) -> str:
        """Which rules where the interval and the corrected p of two judges disagree; empty where they agree."""
        return disagreement_note((f"{two.a} − {two.b}", two.low, two.high, two.p_corrected) for two in self.differences)


def compare_judges(
    human: Qrels,
    judges: Mapping[str, Labels],
    *,
    scale: Sequence[int] = (0, 1, 2, 3),
    relevant: int = 2,
    correction: str = "holm",
    resamples: int = 10_000,
    seed: int = 0,
) -> JudgeComparison:
    """Compare every two judges over the pairs that have a human grade and a label of every judge.

    Args:
        judges: name -> labels; None and a grade outside the scale are invalid answers and count as the worst.
        correction: `holm` or `bh`.
        resamples: Bootstrap resamples of the intervals; the tests use more for many comparisons.
    """
    if len(judges) < 2:
        raise UsageError("a comparison needs two judges")
    shared = common_pairs([human, *judges.values()])
    reference = {topic: {d: grade for d, grade in row.items() if (topic, d) in shared} for topic, row in human.items()}
    paired = [pair(reference, restrict(labels, shared), scale) for labels in judges.values()]
    tables = np.stack([one.tables for one in paired], axis=1)
    chosen = grade_measures(paired[0].scale, relevant)[KAPPA]
    values = chosen.statistic(tables.sum(axis=0))
    if np.isnan(values).any():
        undefined = [name for name, value in zip(judges, values, strict=True) if np.isnan(value)]
        raise UsageError(f"{KAPPA} is undefined for {', '.join(undefined)}: expected agreement is 1")
    ranking = np.argsort(-values, kind="stable").tolist()
    pairs = list(combinations(ranking, 2))
    contrasts = np.zeros((len(pairs), len(judges)))
    for row, (a, b) in zip(contrasts, pairs, strict=True):
        row[a], row[b] = 1, -1
    width = chosen.bounds[1] - chosen.bounds[0]
    estimates = intervals(
        chosen.statistic, tables, bounds=(-width, width), contrasts=contrasts, resamples=resamples, seed=seed
    )
    swaps = max(resamples, _SWAPS_PER_PAIR * len(pairs))
    p_values = swap_p(chosen.statistic, tables, pairs, resamples=swaps, seed=seed)
    names = list(judges)
    differences = [
        JudgeDifference(names[a], names[b], KAPPA, shift, low, high, p, corrected, paired[0].n, len(tables))
        for (a, b), (shift, low, high), p, corrected in zip(
            pairs, estimates.tolist(), p_values, correct(p_values, correction), strict=True
        )
    ]
    return JudgeComparison(
        measure=KAPPA,
        differences=tuple(sorted(differences, key=lambda two: -abs(two.difference))),
        correction=correction,
        swaps=swaps,
        left_out=size(human) - len(shared),
    )
