"""Agreement of two or more labellers: Cohen's kappa, Krippendorff's alpha, mean absolute error, signed bias.

Everything is computed from tables of counts, `(..., human grades, judge grades + 1)`, whose last column holds the
judge's invalid labels. Tables of queries add up, so the tables of ten thousand resamples by query are one matrix
product, and a figure of all of them is one call.

**Invalid labels** (None, or outside the scale) never become a grade. In the headline figures they count as the worst
disagreement: for kappa an answer that agrees with no grade, for weighted kappa and the absolute error one as far from
the human grade as the scale allows. Alpha, signed bias and the figures called `valid` are over the valid labels only.

Sources: Cohen (1960), A coefficient of agreement for nominal scales; Cohen (1968), Weighted kappa; Krippendorff
(2011), Computing Krippendorff's alpha-reliability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import UsageError

Floats: TypeAlias = NDArray[np.float64]
Weights = Literal["none", "linear", "quadratic"]
Level = Literal["nominal", "ordinal", "interval"]


def cohen_kappa(
    a: Sequence[int], b: Sequence[int | None], *, scale: Sequence[int] | None = None, weights: Weights = "none"
) -> float:
    """Cohen's kappa of two labellers of the same items.

    Args:
        a: Grades of the one whose labels are held to be right.
        b: Grades of the other; None is an invalid answer, and so is a grade outside `scale`.
        scale: The grades there are; None: those that occur.
        weights: `none`, or disagreement by the `linear` or `quadratic` distance of the grades.

    Returns:
        1 for full agreement, 0 for that of chance; nan where chance alone would agree fully.

    Raises:
        UsageError: when there are no items, the lengths differ, or a grade of `a` is outside the scale.
    """
    grades = as_scale(scale if scale is not None else {*a, *(grade for grade in b if grade is not None)})
    return float(kappa(confusion(a, b, grades), disagreement(grades, weights)))


def krippendorff_alpha(units: Sequence[Mapping[str, int]], *, level: Level = "ordinal") -> float:
    """Krippendorff's alpha of any number of labellers, labels may be missing.

    Args:
        units: The labels of each item: rater -> grade. Items with fewer than two labels say nothing and are left out.
        level: How far two grades are apart: `nominal`, `ordinal` (by how many labels lie between) or `interval`.

    Returns:
        1 for full agreement, 0 for that of chance; nan where all labels are the same.

    Raises:
        UsageError: when no item has two labels.
    """
    if not any(len(unit) > 1 for unit in units):
        raise UsageError("no item has two labels, so there is no agreement to compute")
    scale = as_scale({grade for unit in units for grade in unit.values()})
    return float(alpha(coincidences(units, scale), scale, level))


def as_scale(grades: Sequence[int] | set[int]) -> tuple[int, ...]:
    """The grades in rising order, each once.

    Raises:
        UsageError: when there is none.
    """
    if not grades:
        raise UsageError("there are no grades")
    return tuple(sorted(set(grades)))


def confusion(a: Sequence[int], b: Sequence[int | None], scale: Sequence[int]) -> Floats:
    """Counts of (grade of a, grade of b), `(G, G + 1)`; the last column is where b is invalid.

    Raises:
        UsageError: when there are no items, the lengths differ, or a grade of `a` is outside the scale.
    """
    if len(a) != len(b):
        raise UsageError(f"{len(a)} labels cannot be paired with {len(b)}")
    if not len(a):
        raise UsageError("there are no labels to compare")
    place = {grade: index for index, grade in enumerate(scale)}
    table = np.zeros((len(scale), len(scale) + 1))
    for mine, other in zip(a, b, strict=True):
        if mine not in place:
            raise UsageError(f"the grade {mine} is outside the scale {', '.join(map(str, scale))}")
        table[place[mine], place.get(other, len(scale)) if other is not None else len(scale)] += 1
    return table


def disagreement(scale: Sequence[int], weights: Weights = "none") -> Floats:
    """How much each cell of a confusion table disagrees, `(G, G + 1)`; the invalid column is the worst of its row."""
    grades = np.asarray(scale, dtype=float)
    distance = np.abs(grades[:, None] - grades[None, :])
    if weights == "none":
        distance = (distance > 0).astype(float)
    elif weights == "quadratic":
        distance = distance**2
    elif weights != "linear":
        raise UsageError(f"there are no weights '{weights}'", fix="Known: none, linear, quadratic.")
    worst = distance.max(axis=1, keepdims=True) if len(grades) > 1 else np.ones((1, 1))
    return np.concatenate([distance, worst], axis=1)


def binary(tables: Floats, scale: Sequence[int], relevant: int) -> Floats:
    """Confusion tables over (not relevant, relevant), `(..., 2, 3)`: grades from `relevant` on are relevant.

    Raises:
        UsageError: when the threshold leaves one side without a grade.
    """
    cut = sum(grade < relevant for grade in scale)
    if not 0 < cut < len(scale):
        raise UsageError(
            f"from grade {relevant} on as relevant divides no scale {', '.join(map(str, scale))}",
            fix="Give the lowest grade that counts as relevant.",
        )
    rows = np.stack([tables[..., :cut, :].sum(axis=-2), tables[..., cut:, :].sum(axis=-2)], axis=-2)
    sides = [rows[..., :cut].sum(axis=-1), rows[..., cut:-1].sum(axis=-1), rows[..., -1]]
    return np.stack(sides, axis=-1)


def valid(tables: Floats) -> Floats:
    """The tables without their invalid labels, in the same shape."""
    without = tables.copy()
    without[..., -1] = 0
    return without


def kappa(tables: Floats, weights: Floats) -> Floats:
    """Kappa of tables `(..., G, H)` under a matrix of disagreement `(G, H)`: `(...)`, nan where chance agrees fully."""
    total = tables.sum(axis=(-2, -1))
    observed = (tables * weights).sum(axis=(-2, -1))
    chance = np.einsum("...i,ij,...j->...", tables.sum(axis=-1), weights, tables.sum(axis=-2))
    return 1 - ratio(observed * total, chance)


def mean_absolute_error(tables: Floats, scale: Sequence[int]) -> Floats:
    """Mean distance of the judge's grade from the human one, in grades; an invalid label is as far off as can be."""
    return ratio((tables * disagreement(scale, "linear")).sum(axis=(-2, -1)), tables.sum(axis=(-2, -1)))


def signed_bias(tables: Floats, scale: Sequence[int]) -> Floats:
    """Mean of judge minus human over the valid labels: above 0 the judge is lenient."""
    grades = np.asarray(scale, dtype=float)
    inside = tables[..., :-1]
    return ratio((inside * (grades[None, :] - grades[:, None])).sum(axis=(-2, -1)), inside.sum(axis=(-2, -1)))


def invalid_rate(tables: Floats) -> Floats:
    """The share of labels that are no grade of the scale."""
    return ratio(tables[..., -1].sum(axis=-1), tables.sum(axis=(-2, -1)))


def agreement_rate(tables: Floats) -> Floats:
    """The share of labels that are the human grade; an invalid one is not."""
    same = np.diagonal(tables[..., :-1], axis1=-2, axis2=-1).sum(axis=-1)
    return ratio(same, tables.sum(axis=(-2, -1)))


def precision(tables: Floats, index: int) -> Floats:
    """Of the labels with the grade at `index` of the scale, the share that people gave that grade too."""
    return ratio(tables[..., index, index], tables[..., index].sum(axis=-1))


def recall(tables: Floats, index: int) -> Floats:
    """Of what people gave the grade at `index` of the scale, the share that the judge gave it too."""
    return ratio(tables[..., index, index], tables[..., index, :].sum(axis=-1))


def coincidences(units: Sequence[Mapping[str, int]], scale: Sequence[int]) -> Floats:
    """Krippendorff's coincidence matrix `(G, G)`: all ordered pairs of labels of an item, each item by its labels."""
    place = {grade: index for index, grade in enumerate(scale)}
    table = np.zeros((len(scale), len(scale)))
    for unit in units:
        if len(unit) < 2:
            continue
        counts = np.bincount([place[grade] for grade in unit.values()], minlength=len(scale))
        table += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    return table


def paired_coincidences(tables: Floats) -> Floats:
    """The coincidence matrices `(..., G, G)` of two labellers, from their confusion tables; invalid labels missing."""
    inside = tables[..., :-1]
    return inside + np.swapaxes(inside, -1, -2)


def alpha(tables: Floats, scale: Sequence[int], level: Level = "ordinal") -> Floats:
    """Krippendorff's alpha of coincidence matrices `(..., G, G)`: `(...)`, nan where all labels are the same."""
    labels = tables.sum(axis=-1)
    distance = _distance(labels, scale, level)
    total = labels.sum(axis=-1)
    observed = (tables * distance).sum(axis=(-2, -1))
    expected = (labels[..., :, None] * labels[..., None, :] * distance).sum(axis=(-2, -1))
    return 1 - ratio(observed * (total - 1), expected)


def _distance(labels: Floats, scale: Sequence[int], level: Level) -> Floats:
    """Krippendorff's squared differences of grades; the ordinal one depends on how often each grade was given."""
    if level == "nominal":
        return 1 - np.eye(len(scale))
    if level == "interval":
        place = np.asarray(scale, dtype=float)
    elif level == "ordinal":
        place = np.cumsum(labels, axis=-1) - labels / 2
    else:
        raise UsageError(f"there is no level '{level}'", fix="Known: nominal, ordinal, interval.")
    return np.asarray((place[..., :, None] - place[..., None, :]) ** 2)


def ratio(part: Floats, whole: Floats) -> Floats:
    """Part over whole; nan where the whole is not above 0."""
    shape = np.broadcast(part, whole).shape
    return np.asarray(np.divide(part, whole, out=np.full(shape, np.nan), where=np.asarray(whole) > 0))
