"""Stability of a judge: agreement of its labels under paraphrased prompts or other passage orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from searchlora.errors import UsageError
from searchlora.eval.judge import agreement
from searchlora.eval.judge.agreement import Floats, as_scale
from searchlora.eval.judge.labels import Labels, common_pairs
from searchlora.eval.judge.measures import invalid_figure
from searchlora.eval.resampling import Figure, Statistic, intervals


@dataclass(frozen=True)
class Variant:
    """Labels of one variant compared with those of the reference, over the same pairs.

    Attributes:
        unchanged: Proportion of pairs with the same valid grade; a pair with an invalid answer counts as changed.
        kappa: Cohen's kappa over all pairs; an invalid answer agrees with nothing, not even another invalid one.
        alpha: Krippendorff's alpha (ordinal) over the pairs valid in both.
        shift: Mean grade of this variant minus that of the reference, over the pairs valid in both.
        invalid: Proportion of its labels that are invalid.
    """

    name: str
    unchanged: Figure
    kappa: Figure
    alpha: Figure
    shift: Figure
    invalid: Figure


@dataclass(frozen=True)
class Stability:
    """Label sets of one judge under several variants of its prompt, over the same pairs.

    Attributes:
        reference: The variant that the others are compared with.
        variants: The others.
        worst: The variant with the lowest kappa.
        unchanged: Proportion of pairs with the same valid grade in all variants.
        alpha: Krippendorff's alpha (ordinal) of all variants; invalid answers count as missing.
        left_out: Number of pairs that some variant lacks.
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
    """Compare label sets of one judge, with intervals by query.

    Args:
        variants: name -> labels, the reference first; None and a grade outside the scale are invalid answers.

    Raises:
        UsageError: for fewer than two variants, or if no pair is common to all.

    Examples:
        >>> first = {f"q{q}": {"d1": q % 3, "d2": 0} for q in range(8)}
        >>> second = {**first, "q1": {"d1": 1, "d2": 1}}
        >>> result = stability({"prompt 1": first, "prompt 2": second}, scale=(0, 1, 2), resamples=100)
        >>> result.unchanged.value, result.worst
        (0.9375, 'prompt 2')
    """
    if len(variants) < 2:
        raise UsageError("stability needs at least two label sets of the same judge")
    grades = as_scale(scale)
    shared = common_pairs(list(variants.values()))
    if not shared:
        raise UsageError("no pair is labelled in all variants")
    by_topic: dict[str, list[list[int | None]]] = {}
    for topic, document in sorted(shared):
        row = [_valid(labels[topic][document], grades) for labels in variants.values()]
        by_topic.setdefault(topic, []).append(row)
    reference, *others = variants
    compared = tuple(
        _variant(name, _tables(by_topic, column, grades), grades, resamples, seed)
        for column, name in enumerate(others, start=1)
    )
    unchanged = np.array(
        [[sum(row[0] is not None and len({*row}) == 1 for row in rows), len(rows)] for rows in by_topic.values()],
        dtype=float,
    )
    units = [agreement.coincidences([_unit(row) for row in rows], grades) for rows in by_topic.values()]
    all_pairs = {(topic, d) for labels in variants.values() for topic, row in labels.items() for d in row}
    n, queries = len(shared), len(by_topic)
    units_with_two = [sum(len(_unit(row)) > 1 for row in rows) for rows in by_topic.values()]
    return Stability(
        reference=reference,
        variants=compared,
        worst=min(compared, key=lambda variant: (np.nan_to_num(variant.kappa.value, nan=1.0), variant.name)).name,
        unchanged=_figure(_proportion, unchanged[:, None, :], (0, 1), n, queries, resamples, seed),
        alpha=_figure(
            partial(agreement.alpha, scale=grades), np.array(units), (-1, 1), sum(units_with_two),
            sum(count > 0 for count in units_with_two), resamples, seed,
        ),
        left_out=len(all_pairs) - n,
    )  # fmt: skip


def _valid(label: int | None, scale: Sequence[int]) -> int | None:
    return label if label in scale else None


def _unit(row: Sequence[int | None]) -> dict[str, int]:
    return {str(at): label for at, label in enumerate(row) if label is not None}


def _tables(by_topic: Mapping[str, list[list[int | None]]], column: int, scale: Sequence[int]) -> Floats:
    """Confusion tables (reference, variant), `(topics, G + 1, G + 1)`, invalid answers last on both axes."""
    index = {grade: position for position, grade in enumerate(scale)}
    tables = np.zeros((len(by_topic), len(scale) + 1, len(scale) + 1))
    for table, rows in zip(tables, by_topic.values(), strict=True):
        for row in rows:
            table[tuple(index[label] if label is not None else -1 for label in (row[0], row[column]))] += 1
    return tables


def _variant(name: str, tables: Floats, scale: Sequence[int], resamples: int, seed: int) -> Variant:
    weights = 1 - np.eye(len(scale) + 1)
    weights[-1, -1] = 1
    width = max(scale) - min(scale)
    valid_reference = tables[:, :-1]  # the same shape as tables of human and judge grades
    both_valid = valid_reference[..., :-1].sum(axis=(-2, -1))
    sizes = tables.sum(axis=(-2, -1))

    def alpha(counts: Floats) -> Floats:
        return agreement.alpha(agreement.paired_coincidences(counts), scale)

    def figure(statistic: Statistic, counts: Floats, bounds: tuple[float, float], n: Floats) -> Figure:
        return _figure(statistic, counts, bounds, int(n.sum()), int((n > 0).sum()), resamples, seed)

    return Variant(
        name=name,
        unchanged=figure(_unchanged, tables, (0, 1), sizes),
        kappa=figure(partial(agreement.kappa, weights=weights), tables, (-1, 1), sizes),
        alpha=figure(alpha, valid_reference, (-1, 1), both_valid),
        shift=figure(partial(agreement.signed_bias, scale=scale), valid_reference, (-width, width), both_valid),
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
    equal = np.diagonal(tables[..., :-1, :-1], axis1=-2, axis2=-1).sum(axis=-1)
    return agreement.ratio(equal, tables.sum(axis=(-2, -1)))


def _proportion(counts: Floats) -> Floats:
    """First over second of counts `(..., 1, 2)`."""
    return agreement.ratio(counts[..., 0, 0], counts[..., 0, 1])
