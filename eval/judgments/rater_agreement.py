"""How far people agree who graded the same pairs: the ceiling for every judge that is held against them.

Pairs of one topic are not independent, so the 95% intervals resample whole topics, as those of judges do. Figures:
`searchlora.eval.judge.agreement`; intervals: `searchlora.eval.resampling`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from searchlora.errors import UsageError
from searchlora.eval.intervals import bootstrap_interval
from searchlora.eval.judge.agreement import Floats, as_scale, confusion, disagreement, kappa
from searchlora.eval.judge.people import alpha_figure
from searchlora.eval.judgments.ratings import Rating, by_pair, standing, undecided
from searchlora.eval.resampling import Figure, Statistic, intervals


@dataclass(frozen=True)
class Rater:
    """What one rater did: pairs rated, and the share of them on which this rater could not tell."""

    name: str
    rated: int
    cannot_tell: Figure


@dataclass(frozen=True)
class Two:
    """Two raters over the pairs that both graded.

    Attributes:
        kappa: Cohen's, over all grades.
        weighted: Cohen's with quadratic weights.
        confusion: (G, G) counts, rows the grade of a, columns that of b, grades as in `Agreement.scale`.
    """

    a: str
    b: str
    kappa: Figure
    weighted: Figure
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Disputed:
    """A pair on whose grade its raters differ."""

    topic: str
    document: str
    grades: Mapping[str, int]

    @property
    def spread(self) -> int:
        """The highest grade minus the lowest."""
        return max(self.grades.values()) - min(self.grades.values())


@dataclass(frozen=True)
class Agreement:
    """How far the raters agree.

    Attributes:
        pairs: Pairs with at least one grade.
        shared: Pairs with two or more.
        scale: The grades that were given, rising.
        alpha: Krippendorff's, ordinal, over the shared pairs; None where there are none.
        raters: By name.
        twos: Every two raters who graded a pair in common.
        disputed: The pairs with the widest spread of grades, widest first, of `disputes` in all.
        undecided: Pairs on which nobody could tell.
    """

    pairs: int
    shared: int
    scale: tuple[int, ...]
    alpha: Figure | None
    raters: tuple[Rater, ...]
    twos: tuple[Two, ...]
    disputed: tuple[Disputed, ...]
    disputes: int
    undecided: tuple[tuple[str, str], ...]


def agreement(ratings: Iterable[Rating], *, widest: int = 20, resamples: int = 10_000, seed: int = 0) -> Agreement:
    """Hold raters against each other. "Cannot tell" is no grade: counted, and in no other figure.

    Args:
        ratings: As `read_ratings` gives them; of corrections the last counts.
        widest: How many disputed pairs to name.

    Raises:
        UsageError: when nobody gave a grade.
    """
    rows = standing(ratings)
    graded = by_pair(rows)
    if not graded:
        raise UsageError("nobody gave a grade", fix="Grade some pairs with `searchlora grade serve` first.")
    scale = as_scale({grade for grades in graded.values() for grade in grades.values()})
    shared = {pair: grades for pair, grades in graded.items() if len(grades) > 1}
    disputed = [Disputed(*pair, grades) for pair, grades in shared.items() if len(set(grades.values())) > 1]
    disputed.sort(key=lambda pair: (-pair.spread, pair.topic, pair.document))
    names = sorted({rating.rater for rating in rows})
    twos = (_two(a, b, graded, scale, resamples, seed) for a, b in combinations(names, 2))
    return Agreement(
        pairs=len(graded),
        shared=len(shared),
        scale=scale,
        alpha=_alpha(shared, scale, resamples, seed) if shared else None,
        raters=tuple(_rater(name, rows, resamples, seed) for name in names),
        twos=tuple(two for two in twos if two is not None),
        disputed=tuple(disputed[:widest]),
        disputes=len(disputed),
        undecided=tuple(undecided(rows)),
    )


def _rater(name: str, rows: Sequence[Rating], resamples: int, seed: int) -> Rater:
    own = [rating for rating in rows if rating.rater == name]
    unsure = [float(rating.grade is None) for rating in own]
    topics = [rating.topic for rating in own]
    low, high = bootstrap_interval(unsure, topics, resamples=resamples, seed=seed)
    return Rater(name, len(own), Figure(sum(unsure) / len(own), low, high, len(own), len(set(topics))))


def _alpha(
    shared: Mapping[tuple[str, str], Mapping[str, int]], scale: tuple[int, ...], resamples: int, seed: int
) -> Figure:
    topics: dict[str, list[Mapping[str, int]]] = {}
    for (topic, _), grades in shared.items():
        topics.setdefault(topic, []).append(grades)
    return alpha_figure(topics, scale, resamples=resamples, seed=seed)


def _two(
    a: str,
    b: str,
    graded: Mapping[tuple[str, str], Mapping[str, int]],
    scale: tuple[int, ...],
    resamples: int,
    seed: int,
) -> Two | None:
    topics: dict[str, list[Mapping[str, int]]] = {}
    for (topic, _), grades in graded.items():
        if a in grades and b in grades:
            topics.setdefault(topic, []).append(grades)
    if not topics:
        return None
    tables = np.stack(
        [confusion([of[a] for of in labels], [of[b] for of in labels], scale) for labels in topics.values()]
    )
    n = sum(len(labels) for labels in topics.values())

    def figure(weights: Floats) -> Figure:
        return _figure(lambda table: kappa(table, weights), tables, n, resamples, seed)

    counts = tables.sum(axis=0)[:, :-1].astype(int).tolist()
    return Two(
        a,
        b,
        kappa=figure(disagreement(scale)),
        weighted=figure(disagreement(scale, "quadratic")),
        confusion=tuple(tuple(row) for row in counts),
    )


def _figure(measure: Statistic, tables: Floats, n: int, resamples: int, seed: int) -> Figure:
    """A measure of agreement of tables `(topics, G, H)`."""
    ((value, low, high),) = intervals(measure, tables[:, None], bounds=(-1, 1), resamples=resamples, seed=seed)
    return Figure(float(value), float(low), float(high), n, len(tables))
