"""Agreement statistics: Cohen's kappa, Krippendorff's alpha, mean absolute error, signed bias.

All statistics are computed from confusion tables `(..., human grades, judge grades + 1)`, whose last column counts the
judge's invalid labels. Tables of queries are additive, so the tables of ten thousand bootstrap resamples of queries
are one matrix product, and a statistic of all of them is one call.

**Invalid labels** (None, or outside the scale) never become a grade. In the headline statistics they count as the
worst disagreement: for kappa a label that agrees with no grade, for weighted kappa and the absolute error a label as
far from the human grade as the scale allows. Alpha and signed bias are over the valid labels only.

Sources: Cohen (1960), A coefficient of agreement for nominal scales; Cohen (1968), Weighted kappa; Krippendorff
(2011), Computing Krippendorff's alpha-reliability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import UsageError
from searchlora.eval.trec import GREATEST_GRADE

Floats: TypeAlias = NDArray[np.float64]

#: Greatest number of grades of a scale; confusion tables have the square of it.
MAX_GRADES = 128

Weights = Literal["none", "linear", "quadratic"]


def as_scale(grades: Sequence[int] | set[int]) -> tuple[int, ...]:
    """The distinct grades, ascending."""
    if not grades:
        raise UsageError("there are no grades")
    scale = tuple(sorted(set(grades)))
    if len(scale) > MAX_GRADES:
        raise UsageError(f"a scale of {len(scale)} grades is too long", fix=f"Give at most {MAX_GRADES} grades.")
    if max(-scale[0], scale[-1]) > GREATEST_GRADE:
        raise UsageError("a grade of the scale is out of range", fix=f"The greatest grade is {GREATEST_GRADE}.")
    return scale


def listed(scale: Sequence[int]) -> str:
    """The grades for a message: `0, 1, 2`."""
    return ", ".join(map(str, scale))


def confusion(a: Sequence[int], b: Sequence[int | None], scale: Sequence[int]) -> Floats:
    """Confusion table of (grade of a, grade of b), `(G, G + 1)`; the last column counts invalid labels of b."""
    if len(a) != len(b):
        raise UsageError(f"{len(a)} labels cannot be paired with {len(b)}")
    if not len(a):
        raise UsageError("there are no labels to compare")
    index = {grade: position for position, grade in enumerate(scale)}
    table = np.zeros((len(scale), len(scale) + 1))
    for first, second in zip(a, b, strict=True):
        if first not in index:
            raise UsageError(f"the grade {first} is outside the scale {listed(scale)}")
        table[index[first], index.get(second, len(scale)) if second is not None else len(scale)] += 1
    return table


def disagreement(scale: Sequence[int], weights: Weights = "none") -> Floats:
    """Disagreement weights of a confusion table, `(G, G + 1)`; the invalid column has the maximum of its row."""
    grades = np.asarray(scale, dtype=float)
    distance = np.abs(grades[:, None] - grades[None, :])
    if weights == "none":
        distance = (distance > 0).astype(float)
    elif weights == "quadratic":
        distance = distance**2
    elif weights != "linear":
        raise UsageError(f"weights is '{weights}'", fix="Allowed: none, linear, quadratic.")
    worst = distance.max(axis=1, keepdims=True) if len(grades) > 1 else np.ones((1, 1))
    return np.concatenate([distance, worst], axis=1)


def binary(tables: Floats, scale: Sequence[int], relevant: int) -> Floats:
    """Confusion tables over (not relevant, relevant), `(..., 2, 3)`; grades of at least `relevant` are relevant."""
    cut = sum(grade < relevant for grade in scale)
    if not 0 < cut < len(scale):
        raise UsageError(
            f"the relevance threshold {relevant} does not divide the scale {listed(scale)}",
            fix="Give the lowest grade that counts as relevant.",
        )
    rows = np.stack([tables[..., :cut, :].sum(axis=-2), tables[..., cut:, :].sum(axis=-2)], axis=-2)
    sides = [rows[..., :cut].sum(axis=-1), rows[..., cut:-1].sum(axis=-1), rows[..., -1]]
    return np.stack(sides, axis=-1)


def valid(tables: Floats) -> Floats:
    """The tables with the counts of invalid labels set to 0, in the same shape."""
    result = tables.copy()
    result[..., -1] = 0
    return result


def kappa(tables: Floats, weights: Floats) -> Floats:
    """Kappa of tables `(..., G, H)` under disagreement weights `(G, H)`: `(...)`; nan if expected agreement is 1."""
    total = tables.sum(axis=(-2, -1))
    observed = (tables * weights).sum(axis=(-2, -1))
    chance = np.einsum("...i,ij,...j->...", tables.sum(axis=-1), weights, tables.sum(axis=-2))
    return 1 - ratio(observed * total, chance)


def mean_absolute_error(tables: Floats, scale: Sequence[int]) -> Floats:
    """Mean absolute difference of judge and human grade, in grades; an invalid label has the greatest possible one."""
    return ratio((tables * disagreement(scale, "linear")).sum(axis=(-2, -1)), tables.sum(axis=(-2, -1)))


def signed_bias(tables: Floats, scale: Sequence[int]) -> Floats:
    """Mean of judge minus human grade over the valid labels; positive for a lenient judge."""
    grades = np.asarray(scale, dtype=float)
    counts = tables[..., :-1]
    return ratio((counts * (grades[None, :] - grades[:, None])).sum(axis=(-2, -1)), counts.sum(axis=(-2, -1)))


def agreement_rate(tables: Floats) -> Floats:
    """Proportion of labels equal to the human grade; an invalid label is not equal."""
    equal = np.diagonal(tables[..., :-1], axis1=-2, axis2=-1).sum(axis=-1)
    return ratio(equal, tables.sum(axis=(-2, -1)))


def precision(tables: Floats, index: int) -> Floats:
    """Precision of the grade at `index` of the scale: the proportion of its labels that equal the human grade."""
    return ratio(tables[..., index, index], tables[..., index].sum(axis=-1))


def recall(tables: Floats, index: int) -> Floats:
    """Recall of the grade at `index` of the scale: the proportion of its human labels that the judge gave too."""
    return ratio(tables[..., index, index], tables[..., index, :].sum(axis=-1))


def coincidences(units: Sequence[Mapping[str, int]], scale: Sequence[int]) -> Floats:
    """Krippendorff's coincidence matrix `(G, G)`: ordered pairs of labels of an item, weighted by 1 / (labels - 1)."""
    index = {grade: position for position, grade in enumerate(scale)}
    table = np.zeros((len(scale), len(scale)))
    for unit in units:
        if len(unit) < 2:
            continue
        counts = np.bincount([index[grade] for grade in unit.values()], minlength=len(scale))
        table += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    return table


def paired_coincidences(tables: Floats) -> Floats:
    """Coincidence matrices `(..., G, G)` of two raters from their confusion tables; invalid labels count as missing."""
    counts = tables[..., :-1]
    return counts + np.swapaxes(counts, -1, -2)


def alpha(tables: Floats) -> Floats:
    """Ordinal Krippendorff's alpha of coincidence matrices `(..., G, G)`: `(...)`; nan where all labels are equal.

    The squared difference of two grades depends on the frequency of the grades between them.
    """
    labels = tables.sum(axis=-1)
    position = np.cumsum(labels, axis=-1) - labels / 2
    distance = (position[..., :, None] - position[..., None, :]) ** 2
    total = labels.sum(axis=-1)
    observed = (tables * distance).sum(axis=(-2, -1))
    expected = (labels[..., :, None] * labels[..., None, :] * distance).sum(axis=(-2, -1))
    return 1 - ratio(observed * (total - 1), expected)


def ratio(part: Floats, total: Floats) -> Floats:
    """`part / whole`, elementwise; nan where `whole` is not positive."""
    shape = np.broadcast(part, total).shape
    return np.asarray(np.divide(part, total, out=np.full(shape, np.nan), where=np.asarray(total) > 0))
