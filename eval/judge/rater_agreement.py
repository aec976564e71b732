"""Agreement of human raters with each other: the ceiling for a judge that is compared with them.

Pairs of one topic are not independent, so the 95% intervals resample whole topics, as those of judges do. Statistics:
`searchlora.eval.agreement`; intervals: `searchlora.eval.resampling`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np

from searchlora.errors import UsageError
from searchlora.eval.agreement import alpha, as_scale, coincidences, confusion, disagreement, kappa
from searchlora.eval.grade_measures import BINARY, KAPPA, MAE, QUADRATIC, grade_measures
from searchlora.eval.intervals import bootstrap_interval, proportion
from searchlora.eval.judge.labels import check_grades, pair
from searchlora.eval.judgments.ratings import Rating, by_pair, standing, undecided
from searchlora.eval.resampling import Estimate, estimate
from searchlora.eval.trec import Qrels


@dataclass(frozen=True)
class RaterPair:
    """Agreement of two raters over the pairs that both graded, by the measures of a judge card."""

    a: str
    b: str
    kappa: Estimate
    kappa_binary: Estimate
    kappa_quadratic: Estimate
    mae: Estimate


@dataclass(frozen=True)
class People:
    """Agreement of all raters of a judge card.

    Attributes:
        raters: Their names.
        pairs: Every two raters who graded a pair in common.
        alpha: Krippendorff's alpha (ordinal) of all raters, over the pairs with at least two grades.
    """

    raters: tuple[str, ...]
    pairs: tuple[RaterPair, ...]
    alpha: Estimate


def people_agreement(
    raters: Mapping[str, Qrels], scale: Sequence[int], relevant: int, *, resamples: int = 10_000, seed: int = 0
) -> People:
    """Compare raters (name -> qrels of that rater) with each other, with intervals by topic."""
    if len(raters) < 2:
        raise UsageError("the agreement of raters needs two raters")
    for name, qrels in raters.items():
        check_grades(qrels, scale, f"rater {name}, ")
    units = _units(raters)
    if not units:
        raise UsageError("no pair has grades of two raters")
    return People(
        raters=tuple(raters),
        pairs=tuple(
            _rater_pair(raters, a, b, scale, relevant, resamples, seed)
            for a, b in combinations(raters, 2)
            if any(raters[a][topic].keys() & raters[b].get(topic, {}).keys() for topic in raters[a])
        ),
        alpha=_alpha(units, scale, resamples, seed),
    )


@dataclass(frozen=True)
class Rater:
    """Work of one rater: pairs rated, and the proportion of them rated "cannot tell"."""

    name: str
    rated: int
    cannot_tell: Estimate


@dataclass(frozen=True)
class RatingPair:
    """Agreement of two raters over the pairs that both graded.

    Attributes:
        kappa: Cohen's kappa over all grades.
        weighted: Cohen's kappa with quadratic weights.
        confusion: `(G, G)` counts; rows are grades of `a`, columns grades of `b`, in the order of
            `RatingsAgreement.scale`.
    """

    a: str
    b: str
    kappa: Estimate
    weighted: Estimate
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Disputed:
    """A pair with different grades: rater -> grade."""

    topic: str
    document: str
    grades: Mapping[str, int]

    @property
    def spread(self) -> int:
        """The highest grade minus the lowest."""
        return max(self.grades.values()) - min(self.grades.values())


@dataclass(frozen=True)
class RatingsAgreement:
    """Agreement of the raters of a grading session.

    Attributes:
        pairs: Number of pairs with at least one grade.
        shared: Number of pairs with two grades or more.
        scale: The grades that were given, ascending.
        alpha: Krippendorff's alpha (ordinal) over the shared pairs; None if there are none.
        raters: Sorted by name.
        rater_pairs: Every two raters who graded a pair in common.
        disputed: The pairs with the widest spread of grades, widest first.
        disputes: Number of all pairs with different grades.
        undecided: Pairs that were rated "cannot tell" only.
    """

    pairs: int
    shared: int
    scale: tuple[int, ...]
    alpha: Estimate | None
    raters: tuple[Rater, ...]
    rater_pairs: tuple[RatingPair, ...]
    disputed: tuple[Disputed, ...]
    disputes: int
    undecided: tuple[tuple[str, str], ...]


def ratings_agreement(
    ratings: Iterable[Rating], *, widest: int = 20, resamples: int = 10_000, seed: int = 0
) -> RatingsAgreement:
    """Compare the raters of a grading session. "Cannot tell" is counted and enters no other statistic.

    Args:
        ratings: As read by `read_ratings`; the last rating of a rater and pair counts.
        widest: Maximum number of disputed pairs to list.
    """
    rows = standing(ratings)
    graded = by_pair(rows)
    if not graded:
        raise UsageError("there are no grades", fix="Grade some pairs with `searchlora grade serve` first.")
    scale = as_scale({grade for grades in graded.values() for grade in grades.values()})
    shared = {pair: grades for pair, grades in graded.items() if len(grades) > 1}
    units: dict[str, list[Mapping[str, int]]] = {}
    for (topic, _), grades in shared.items():
        units.setdefault(topic, []).append(grades)
    disputed = [Disputed(*pair, grades) for pair, grades in shared.items() if len(set(grades.values())) > 1]
    disputed.sort(key=lambda pair: (-pair.spread, pair.topic, pair.document))
    names = sorted({rating.rater for rating in rows})
    rater_pairs = (_rating_pair(a, b, units, scale, resamples, seed) for a, b in combinations(names, 2))
    return RatingsAgreement(
        pairs=len(graded),
        shared=len(shared),
        scale=scale,
        alpha=_alpha(units, scale, resamples, seed) if shared else None,
        raters=tuple(_rater(name, rows, resamples, seed) for name in names),
        rater_pairs=tuple(two for two in rater_pairs if two is not None),
        disputed=tuple(disputed[:widest]),
        disputes=len(disputed),
        undecided=tuple(undecided(rows)),
    )


def _alpha(
    units: Mapping[str, Sequence[Mapping[str, int]]], scale: Sequence[int], resamples: int, seed: int
) -> Estimate:
    """Krippendorff's alpha (ordinal) of topic -> pairs with at least two grades, each as rater -> grade."""
    tables = np.stack([coincidences(pairs, scale) for pairs in units.values()])
    n = sum(map(len, units.values()))
    return estimate(alpha, tables, n, bounds=(-1, 1), resamples=resamples, seed=seed)


def _units(raters: Mapping[str, Qrels]) -> dict[str, list[dict[str, int]]]:
    """topic -> its pairs with at least two grades, each as rater -> grade."""
    grades: dict[str, dict[str, dict[str, int]]] = {}
    for name, qrels in raters.items():
        for topic, row in qrels.items():
            for document, grade in row.items():
                grades.setdefault(topic, {}).setdefault(document, {})[name] = grade
    shared = {topic: [unit for unit in row.values() if len(unit) > 1] for topic, row in grades.items()}
    return {topic: units for topic, units in shared.items() if units}


def _rater_pair(
    raters: Mapping[str, Qrels], a: str, b: str, scale: Sequence[int], relevant: int, resamples: int, seed: int
) -> RaterPair:
    tables = pair(raters[a], raters[b], scale).tables
    measures = grade_measures(scale, relevant)
    chosen = (measures[name] for name in (KAPPA, BINARY, QUADRATIC, MAE))
    return RaterPair(a, b, *(measure.estimate(tables, resamples=resamples, seed=seed) for measure in chosen))


def _rating_pair(
    a: str,
    b: str,
    units: Mapping[str, Sequence[Mapping[str, int]]],
    scale: tuple[int, ...],
    resamples: int,
    seed: int,
) -> RatingPair | None:
    by_topic = [[unit for unit in pairs if a in unit and b in unit] for pairs in units.values()]
    both = [pairs for pairs in by_topic if pairs]
    if not both:
        return None
    tables = np.stack([confusion([unit[a] for unit in pairs], [unit[b] for unit in pairs], scale) for pairs in both])
    n = sum(map(len, both))
    plain, weighted = (
        estimate(partial(kappa, weights=weights), tables, n, bounds=(-1, 1), resamples=resamples, seed=seed)
        for weights in (disagreement(scale), disagreement(scale, "quadratic"))
    )
    counts = tables.sum(axis=0)[:, :-1].astype(int).tolist()
    return RatingPair(a, b, plain, weighted, tuple(tuple(row) for row in counts))


def _rater(name: str, rows: Sequence[Rating], resamples: int, seed: int) -> Rater:
    ratings = [rating for rating in rows if rating.rater == name]
    cannot_tell = [float(rating.grade is None) for rating in ratings]
    topics = [rating.topic for rating in ratings]
    value = sum(cannot_tell) / len(ratings)
    low, high = bootstrap_interval(cannot_tell, topics, resamples=resamples, seed=seed)
    if low == high:  # a bootstrap has nothing to resample
        sizes, hits = Counter(topics), Counter(topic for topic, one in zip(topics, cannot_tell, strict=True) if one)
        _, low, high = proportion(np.array([hits[each] for each in sizes], float), np.array([*sizes.values()], float))
    return Rater(name, len(ratings), Estimate(value, low, high, len(ratings), len(set(topics))))
