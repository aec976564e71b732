"""How far people agree who labelled the same pairs: no judge can be asked to agree with them better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np

from searchlora.errors import UsageError
from searchlora.eval.judge.agreement import alpha, coincidences
from searchlora.eval.judge.measures import BINARY, KAPPA, MAE, QUADRATIC, judge_measures
from searchlora.eval.judge.pairing import check_grades, pair
from searchlora.eval.resampling import Figure, intervals
from searchlora.eval.trec import Qrels


@dataclass(frozen=True)
class TwoPeople:
    """Two raters over the pairs that both labelled, as a judge and people are compared (`mae` is symmetric)."""

    a: str
    b: str
    kappa: Figure
    kappa_binary: Figure
    kappa_quadratic: Figure
    mae: Figure


@dataclass(frozen=True)
class People:
    """The agreement of all raters.

    Attributes:
        raters: Their names.
        pairs: Each two of them that have labels in common.
        alpha: Krippendorff's (ordinal), of all raters over the pairs with two labels at least.
    """

    raters: tuple[str, ...]
    pairs: tuple[TwoPeople, ...]
    alpha: Figure


def people(
    raters: Mapping[str, Qrels], scale: Sequence[int], relevant: int, *, resamples: int = 10_000, seed: int = 0
) -> People:
    """Compare raters with each other, intervals by query.

    Raises:
        UsageError: for fewer than two raters, or where no pair has two labels.
        DataError: for a grade outside the scale.
    """
    if len(raters) < 2:
        raise UsageError("the agreement of people needs two raters")
    for name, qrels in raters.items():
        check_grades(qrels, scale, f"rater {name}, ")
    units = _units(raters)
    if not units:
        raise UsageError("no pair has labels of two people")
    return People(
        raters=tuple(raters),
        pairs=tuple(
            _two(raters, a, b, scale, relevant, resamples, seed)
            for a, b in combinations(raters, 2)
            if any(raters[a][topic].keys() & raters[b].get(topic, {}).keys() for topic in raters[a])
        ),
        alpha=alpha_figure(units, scale, resamples=resamples, seed=seed),
    )


def alpha_figure(
    units: Mapping[str, Sequence[Mapping[str, int]]], scale: Sequence[int], *, resamples: int, seed: int
) -> Figure:
    """Krippendorff's alpha (ordinal) of raters, the interval by topic.

    Args:
        units: topic -> its pairs with two labels at least, each as rater -> grade.
    """
    tables = np.stack([coincidences(of_topic, scale) for of_topic in units.values()])
    ((value, low, high),) = intervals(
        partial(alpha, scale=scale), tables[:, None], bounds=(-1, 1), resamples=resamples, seed=seed
    )
    return Figure(float(value), float(low), float(high), sum(map(len, units.values())), len(units))


def _units(raters: Mapping[str, Qrels]) -> dict[str, list[dict[str, int]]]:
    """topic -> the labels of each of its pairs that has two."""
    labels: dict[str, dict[str, dict[str, int]]] = {}
    for name, qrels in raters.items():
        for topic, row in qrels.items():
            for document, grade in row.items():
                labels.setdefault(topic, {}).setdefault(document, {})[name] = grade
    twice = {topic: [unit for unit in row.values() if len(unit) > 1] for topic, row in labels.items()}
    return {topic: units for topic, units in twice.items() if units}


def _two(
    raters: Mapping[str, Qrels], a: str, b: str, scale: Sequence[int], relevant: int, resamples: int, seed: int
) -> TwoPeople:
    tables = pair(raters[a], raters[b], scale).tables
    measures = judge_measures(scale, relevant)
    figures = [
        measures[name].figure(tables, resamples=resamples, seed=seed) for name in (KAPPA, BINARY, QUADRATIC, MAE)
    ]
    return TwoPeople(a, b, *figures)
