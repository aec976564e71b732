"""Does a judge stay with its grade when its prompt is paraphrased or its passages come in another order?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from searchlora.errors import UsageError
from searchlora.eval.judge import agreement
from searchlora.eval.judge.agreement import Floats, as_scale
from searchlora.eval.judge.labels import Labels, common
from searchlora.eval.judge.measures import invalid_figure
from searchlora.eval.resampling import Figure, Statistic, intervals


@dataclass(frozen=True)
class Variant:
    """The labels of one variant against those of the reference, over the same pairs.

    Attributes:
        unchanged: The share of pairs with the same grade; an answer that is invalid in either of them is a change.
        kappa: Cohen's, over all pairs; an invalid answer agrees with nothing, not with another invalid one either.
        alpha: Krippendorff's (ordinal), over the pairs valid in both.
        shift: Mean grade of this variant less that of the reference, over the pairs valid in both.
        invalid: The share of its labels that are no grade.
    """

    name: str
    unchanged: Figure
    kappa: Figure
    alpha: Figure
    shift: Figure
    invalid: Figure


@dataclass(frozen=True)
class Stability:
    """One judge asked in several ways about the same pairs.

    Attributes:
        reference: The variant that the others are set against.
        variants: The others.
        worst: The one with the lowest kappa.
        unchanged: The share of pairs that have one and the same valid grade in all variants.
        alpha: Krippendorff's (ordinal) of all variants, invalid answers missing.
        left_out: Pairs that not all variants have.
    """

    reference: str
    variants: tuple[Variant, ...]
    worst: str
    unchanged: Figure
    alpha: Figure
    left_out: int


def stability(
    variants: Mapping[str, Labels], *, scale: Sequence[int] = (0, 1, 2, 3), resamples: int = 10_000, seed: int = 0
) -> Stability:
    """Compare label sets that the same judge gave, intervals by query.

    Args:
        variants: name -> its labels, the reference first; None, and a grade outside the scale, is an invalid answer.

    Raises:
        UsageError: for fewer than two variants, or no pair that all of them have.
    """
    if len(variants) < 2:
        raise UsageError("stability needs two label sets of the same judge")
    grades = as_scale(scale)
    shared = common(list(variants.values()))
    if not shared:
        raise UsageError("no pair is labelled in all variants")
    by_topic: dict[str, list[list[int | None]]] = {}
    for topic, document in sorted(shared):
        row = [_valid(labels[topic][document], grades) for labels in variants.values()]
        by_topic.setdefault(topic, []).append(row)
    reference, *others = variants
    found = tuple(
        _variant(name, _tables(by_topic, at, grades), grades, resamples, seed)
        for at, name in enumerate(others, start=1)
    )
    same = np.array(
        [[sum(row[0] is not None and len({*row}) == 1 for row in rows), len(rows)] for rows in by_topic.values()],
        dtype=float,
    )
    units = [agreement.coincidences([_unit(row) for row in rows], grades) for rows in by_topic.values()]
    everything = {(topic, d) for labels in variants.values() for topic, row in labels.items() for d in row}
    n, queries = len(shared), len(by_topic)
    answered = [sum(len(_unit(row)) > 1 for row in rows) for rows in by_topic.values()]
    return Stability(
        reference=reference,
        variants=found,
        worst=min(found, key=lambda variant: (np.nan_to_num(variant.kappa.value, nan=1.0), variant.name)).name,
        unchanged=_figure(_share, same[:, None, :], (0, 1), n, queries, resamples, seed),
        alpha=_figure(
            partial(agreement.alpha, scale=grades), np.array(units), (-1, 1), sum(answered),
            sum(count > 0 for count in answered), resamples, seed,
        ),
        left_out=len(everything) - n,
    )  # fmt: skip


def _valid(label: int | None, scale: Sequence[int]) -> int | None:
    return label if label in scale else None


def _unit(row: Sequence[int | None]) -> dict[str, int]:
    return {str(at): label for at, label in enumerate(row) if label is not None}


def _tables(by_topic: Mapping[str, list[list[int | None]]], at: int, scale: Sequence[int]) -> Floats:
    """Counts of (reference, variant), `(topics, G + 1, G + 1)`, invalid answers last on both sides."""
    place = {grade: index for index, grade in enumerate(scale)}
    tables = np.zeros((len(by_topic), len(scale) + 1, len(scale) + 1))
    for table, rows in zip(tables, by_topic.values(), strict=True):
        for row in rows:
            table[tuple(place[label] if label is not None else -1 for label in (row[0], row[at]))] += 1
    return tables


def _variant(name: str, tables: Floats, scale: Sequence[int], resamples: int, seed: int) -> Variant:
    apart = 1 - np.eye(len(scale) + 1)
    apart[-1, -1] = 1
    width = max(scale) - min(scale)
    both = tables[:, :-1]  # the reference is valid: as people and a judge are compared
    inside = both[..., :-1].sum(axis=(-2, -1))
    sizes = tables.sum(axis=(-2, -1))

    def alpha(counts: Floats) -> Floats:
        return agreement.alpha(agreement.paired_coincidences(counts), scale)

    def figure(statistic: Statistic, counts: Floats, bounds: tuple[float, float], n: Floats) -> Figure:
        return _figure(statistic, counts, bounds, int(n.sum()), int((n > 0).sum()), resamples, seed)

    return Variant(
        name=name,
        unchanged=figure(_unchanged, tables, (0, 1), sizes),
        kappa=figure(partial(agreement.kappa, weights=apart), tables, (-1, 1), sizes),
        alpha=figure(alpha, both, (-1, 1), inside),
        shift=figure(partial(agreement.signed_bias, scale=scale), both, (-width, width), inside),
        invalid=invalid_figure(tables),
    )


def _figure(
    statistic: Statistic,
    tables: Floats,
    bounds: tuple[float, float],
    n: int,
    queries: int,
    resamples: int,
    seed: int,
) -> Figure:
    value, low, high = intervals(statistic, tables[:, None], bounds=bounds, resamples=resamples, seed=seed)[0]
    return Figure(float(value), float(low), float(high), n, queries)


def _unchanged(tables: Floats) -> Floats:
    same = np.diagonal(tables[..., :-1, :-1], axis1=-2, axis2=-1).sum(axis=-1)
    return agreement.ratio(same, tables.sum(axis=(-2, -1)))


def _share(counts: Floats) -> Floats:
    """Of counts `(..., 1, 2)`: the first over the second."""
    return agreement.ratio(counts[..., 0, 0], counts[..., 0, 1])
