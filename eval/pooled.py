"""Figures that are no mean of rows but a function of sums over them: macro-F1, kappa, calibration error.

Each row has a few cells (counts, mostly); they are added up over rows, and the figure is computed from the sums. So a
figure over any resample of rows, or of clusters of rows, is one matrix product and one call.

An invalid output (None) is never a label: it counts as wrong for its gold label and as nothing said. Where a figure
would divide by 0 it is 0, as in scikit-learn with `zero_division=0`; kappa, alpha and bias are then not known (nan).

Sources: Cohen (1960, 1968), Krippendorff (2011), see `judge.agreement`; macro-averaging as in scikit-learn; binning and
calibration error as in Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks (ICML 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import UsageError
from searchlora.eval.judge import agreement

Floats: TypeAlias = NDArray[np.float64]

_T = TypeVar("_T")

#: One label, or all of a row that has several.
Labels: TypeAlias = str | Collection[str]


@dataclass(frozen=True)
class Pooled:
    """A figure of the sums of cells over rows.

    Attributes:
        cells: row id -> its cells, as many for each row, and of the same meaning in all systems that are compared.
        statistic: Sums of cells `(..., cells)` -> the figure `(...)`, nan where it does not exist. It must be smooth,
            and the same when all sums are multiplied by one number.
        bounds: The least and greatest value there can be; intervals end there.
        share: Whether the figure is the first cell over the second, counts both. Where it is 0 or 1 in every cluster, a
            bootstrap has nothing to draw from, and its interval is that of `judge.rates`.
    """

    cells: Mapping[str, Sequence[float] | Floats]
    statistic: Callable[[Floats], Floats]
    bounds: tuple[float, float] = (-np.inf, np.inf)
    share: bool = False

    @property
    def value(self) -> float:
        """The figure over all rows. Raises ValueError where there is none."""
        return float(self.statistic(np.array(list(self.cells.values()), dtype=float).sum(axis=0)))


def macro_f1(gold: Mapping[str, Labels], said: Mapping[str, Labels | None], labels: Sequence[str]) -> Pooled:
    """The mean F1 of the labels that stand in gold, each of the same weight: `(hits, said, gold)` of each as cells.

    As scikit-learn's `f1_score(average="macro", labels=…, zero_division=0)` with the labels that stand in gold.

    Args:
        gold, said: Row -> its label, or its labels where a row may have several; None: invalid.
        labels: All that there are.

    Raises:
        UsageError: when a row of `gold` is missing in `said`, or has a label that is not among `labels`.
    """
    place = {label: index for index, label in enumerate(labels)}
    cells = np.zeros((len(gold), 3, len(labels)))
    for row, (id_, true) in zip(cells, gold.items(), strict=True):
        wanted, found = _set(true), _set(_said(said, id_))
        if unknown := [label for label in wanted if label not in place]:
            raise UsageError(f"'{unknown[0]}' is no label that there is", where=f"row {id_}")
        for kind, chosen in enumerate((wanted & found, found, wanted)):
            row[kind, [place[label] for label in chosen if label in place]] = 1
    flat = cells.reshape(len(gold), -1)
    return Pooled(dict(zip(gold, flat, strict=True)), _mean_f1, (0.0, 1.0))


def f1(gold: Mapping[str, bool], said: Mapping[str, bool | None]) -> Pooled:
    """F1 of one class: rows of the class in `gold`, and those that were said to be of it."""
    return micro_f1(*_class(gold, said))


def precision(gold: Mapping[str, bool], said: Mapping[str, bool | None]) -> Pooled:
    """Of the rows said to be of a class, the share that is."""
    hits, positive, _ = _class(gold, said)
    return micro_precision(hits, positive)


def recall(gold: Mapping[str, bool], said: Mapping[str, bool | None]) -> Pooled:
    """Of the rows of a class, the share that was said to be of it."""
    hits, _, true = _class(gold, said)
    return micro_recall(hits, true)


def micro_f1(hits: Mapping[str, float], said: Mapping[str, float], gold: Mapping[str, float]) -> Pooled:
    """2 Σ hits / (Σ said + Σ gold), counts of each row."""
    return Pooled({row: (hits[row], said[row], gold[row]) for row in hits}, _mean_f1, (0.0, 1.0))


def micro_precision(hits: Mapping[str, float], said: Mapping[str, float]) -> Pooled:
    """Σ hits / Σ said, counts of each row: for example of the citations, those that are right."""
    return Pooled({row: (hits[row], said[row]) for row in hits}, _share, (0.0, 1.0), share=True)


def micro_recall(hits: Mapping[str, float], gold: Mapping[str, float]) -> Pooled:
    """Σ hits / Σ gold, counts of each row."""
    return micro_precision(hits, gold)


def cohen_kappa(
    gold: Mapping[str, int],
    said: Mapping[str, int | None],
    scale: Sequence[int],
    *,
    weights: agreement.Weights = "none",
    relevant: int | None = None,
) -> Pooled:
    """Cohen's kappa; an invalid grade agrees with none, and under weights is as far off as the scale allows.

    Args:
        gold, said: Row -> its grade; None, or one outside the scale: invalid.
        weights: `none`, or disagreement by the `linear` or `quadratic` distance of grades.
        relevant: Over two grades only, from this one on and below it; None: over all.
    """
    grades = agreement.as_scale(scale)
    if relevant is None:
        statistic = partial(agreement.kappa, weights=agreement.disagreement(grades, weights))
        return _graded(gold, said, grades, statistic, (-1.0, 1.0))
    agreement.binary(np.zeros((len(grades), len(grades) + 1)), grades, relevant)  # says where it divides nothing
    two = agreement.disagreement((0, 1))

    def binary(tables: Floats) -> Floats:
        return agreement.kappa(agreement.binary(tables, grades, relevant), two)

    return _graded(gold, said, grades, binary, (-1.0, 1.0))


def krippendorff_alpha(
    gold: Mapping[str, int],
    said: Mapping[str, int | None],
    scale: Sequence[int],
    *,
    level: agreement.Level = "ordinal",
) -> Pooled:
    """Krippendorff's alpha of gold and what was said, over the rows with a valid grade."""
    grades = agreement.as_scale(scale)

    def alpha(tables: Floats) -> Floats:
        return agreement.alpha(agreement.paired_coincidences(tables), grades, level)

    return _graded(gold, said, grades, alpha, (-1.0, 1.0))


def mean_absolute_error(gold: Mapping[str, int], said: Mapping[str, int | None], scale: Sequence[int]) -> Pooled:
    """Mean distance from gold, in grades; an invalid grade is as far off as the scale allows."""
    grades = agreement.as_scale(scale)
    statistic = partial(agreement.mean_absolute_error, scale=grades)
    return _graded(gold, said, grades, statistic, (0.0, float(grades[-1] - grades[0])))


def signed_bias(gold: Mapping[str, int], said: Mapping[str, int | None], scale: Sequence[int]) -> Pooled:
    """Mean of said minus gold over the rows with a valid grade: above 0 is lenient."""
    grades = agreement.as_scale(scale)
    width = float(grades[-1] - grades[0])
    return _graded(gold, said, grades, partial(agreement.signed_bias, scale=grades), (-width, width))


def expected_calibration_error(
    probability: Mapping[str, float], correct: Mapping[str, bool], *, bins: int = 15
) -> Pooled:
    """How far probabilities are from how often they were right: |mean probability − share right|, by bins of rows.

    The bins are of equal width, from 0 to 1 (Guo et al. 2017), not of equal mass: they are then the same for every
    system and every resample. The error cannot be below 0, so with few rows it lies above the truth.

    Args:
        probability: Row -> the probability that was given to what was said; rows without one are not in the figure.
        correct: Row -> whether what was said is right.

    Raises:
        UsageError: when a value is no probability.
    """
    cells = np.zeros((len(probability), bins + 1))
    cells[:, -1] = 1
    for row, (id_, given) in zip(cells, probability.items(), strict=True):
        if not 0 <= given <= 1:
            raise UsageError(f"{given} is not a probability", where=f"row {id_}")
        row[min(int(given * bins), bins - 1)] = float(correct[id_]) - given
    return Pooled(dict(zip(probability, cells, strict=True)), _calibration, (0.0, 1.0))


def _mean_f1(sums: Floats) -> Floats:
    """Sums of (hits, said, gold), each of so many labels: mean F1 of the labels that stand in gold."""
    hits, said, gold = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    standing = gold > 0
    scores = np.divide(2 * hits, said + gold, out=np.zeros_like(hits), where=standing)
    return np.asarray(scores.sum(axis=-1) / np.maximum(standing.sum(axis=-1), 1))


def _share(sums: Floats) -> Floats:
    part, whole = sums[..., 0], sums[..., 1]
    return np.asarray(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0))


def _calibration(sums: Floats) -> Floats:
    return agreement.ratio(np.abs(sums[..., :-1]).sum(axis=-1), sums[..., -1])


def _graded(
    gold: Mapping[str, int],
    said: Mapping[str, int | None],
    scale: tuple[int, ...],
    statistic: Callable[[Floats], Floats],
    bounds: tuple[float, float],
) -> Pooled:
    """A statistic of confusion tables `(..., G, G + 1)`, whose cells each row has."""
    shape = (len(scale), len(scale) + 1)
    cells = {row: agreement.confusion([grade], [_said(said, row)], scale).reshape(-1) for row, grade in gold.items()}
    return Pooled(cells, lambda sums: statistic(sums.reshape(*sums.shape[:-1], *shape)), bounds)


def _class(
    gold: Mapping[str, bool], said: Mapping[str, bool | None]
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Hits, said and gold of each row."""
    positive = {row: float(bool(_said(said, row))) for row in gold}
    true = {row: float(value) for row, value in gold.items()}
    return {row: positive[row] * true[row] for row in gold}, positive, true


def _said(said: Mapping[str, _T], row: str) -> _T:
    if row not in said:
        raise UsageError("there is nothing said of this row, not even None", where=f"row {row}")
    return said[row]


def _set(labels: Labels | None) -> set[str]:
    return {labels} if isinstance(labels, str) else set(labels or ())
