"""Measures of a judge card: definition by name, computation from confusion tables, and interval by query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from searchlora.eval.judge import agreement
from searchlora.eval.judge.agreement import Floats
from searchlora.eval.resampling import Figure, Statistic, intervals

Mask: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.bool_]]

#: Names of the main measures of `judge_measures`.
KAPPA, BINARY, QUADRATIC, MAE = "kappa", "kappa_binary", "kappa_quadratic", "mae"


@dataclass(frozen=True)
class JudgeMeasure:
    """An agreement measure.

    Attributes:
        statistic: Tables `(..., G, G + 1)` -> values `(...)`.
        bounds: The least and the greatest possible value.
        cells: Mask `(G, G + 1)` of the cells whose pairs count in `n`.
        hits: For a proportion, mask of the cells in its numerator; None for other measures. The interval of a
            proportion without spread between queries, mostly 0, is that of `rate`.
    """

    name: str
    statistic: Statistic
    bounds: tuple[float, float]
    cells: Mask
    hits: Mask | None = None

    def figure(self, tables: Floats, *, resamples: int, seed: int) -> Figure:
        """Value and interval for one judge, from its tables `(queries, G, G + 1)`."""
        value, low, high = intervals(
            self.statistic, tables[:, None], bounds=self.bounds, resamples=resamples, seed=seed
        )[0]
        counted = (tables * self.cells).sum(axis=(-2, -1))
        if self.hits is not None and low == high:
            value, low, high = rate((tables * self.hits).sum(axis=(-2, -1)), counted)
        return Figure(float(value), float(low), float(high), int(counted.sum()), int((counted > 0).sum()))


def judge_measures(scale: Sequence[int], relevant: int) -> dict[str, JudgeMeasure]:
    """The measures for a scale, by name, the headline measure first.

    `kappa` (all grades), `kappa_binary` (grade at least `relevant` or not), `kappa_linear`, `kappa_quadratic`
    (weighted), `agreement` (proportion of equal grades) and `mae` (mean absolute error) are over all pairs, with
    invalid labels as the worst disagreement (see `agreement`). `alpha` (Krippendorff's, ordinal), `bias` (judge minus
    human) and the measures ending in `_valid` are over the pairs with a valid label.

    Raises:
        UsageError: when all grades or none are relevant.
    """
    width = float(max(scale) - min(scale))
    binary_weights = agreement.disagreement((0, 1))
    all_cells = np.ones((len(scale), len(scale) + 1), dtype=bool)
    valid_cells = all_cells.copy()
    valid_cells[:, -1] = False
    diagonal = np.eye(*all_cells.shape, dtype=bool)
    agreement.binary(all_cells.astype(float), scale, relevant)  # checks the threshold

    def weighted(kind: agreement.Weights) -> Statistic:
        return partial(agreement.kappa, weights=agreement.disagreement(scale, kind))

    def binary(tables: Floats) -> Floats:
        return agreement.kappa(agreement.binary(tables, scale, relevant), binary_weights)

    def alpha(tables: Floats) -> Floats:
        return agreement.alpha(agreement.paired_coincidences(tables), scale)

    def mae(tables: Floats) -> Floats:
        return agreement.mean_absolute_error(tables, scale)

    def valid(statistic: Statistic) -> Statistic:
        return lambda tables: statistic(agreement.valid(tables))

    unit = (-1.0, 1.0)
    measures = [
        JudgeMeasure(KAPPA, weighted("none"), unit, all_cells),
        JudgeMeasure(BINARY, binary, unit, all_cells),
        JudgeMeasure("kappa_linear", weighted("linear"), unit, all_cells),
        JudgeMeasure(QUADRATIC, weighted("quadratic"), unit, all_cells),
        JudgeMeasure("alpha", alpha, unit, valid_cells),
        JudgeMeasure("agreement", agreement.agreement_rate, (0.0, 1.0), all_cells, diagonal),
        JudgeMeasure(MAE, mae, (0.0, width), all_cells),
        JudgeMeasure("bias", partial(agreement.signed_bias, scale=scale), (-width, width), valid_cells),
        JudgeMeasure("kappa_valid", valid(weighted("none")), unit, valid_cells),
        JudgeMeasure("kappa_binary_valid", valid(binary), unit, valid_cells),
        JudgeMeasure("mae_valid", valid(mae), (0.0, width), valid_cells),
    ]
    return {measure.name: measure for measure in measures}


def grade_measures(scale: Sequence[int], index: int) -> tuple[JudgeMeasure, JudgeMeasure]:
    """Precision and recall of the grade at `index` of the scale; an invalid label counts as not recalled."""
    judged = np.zeros((len(scale), len(scale) + 1), dtype=bool)
    human = judged.copy()
    judged[:, index], human[index] = True, True
    grade, hits = scale[index], judged & human
    return (
        JudgeMeasure(f"precision_{grade}", partial(agreement.precision, index=index), (0.0, 1.0), judged, hits),
        JudgeMeasure(f"recall_{grade}", partial(agreement.recall, index=index), (0.0, 1.0), human, hits),
    )


def invalid_figure(tables: Floats) -> Figure:
    """Proportion of invalid labels of one judge, from its tables `(queries, G, G + 1)`, with the interval of `rate`."""
    sizes = tables.sum(axis=(-2, -1))
    value, low, high = rate(tables[..., -1].sum(axis=-1), sizes)
    return Figure(value, low, high, int(sizes.sum()), len(tables))


def rate(hits: Floats, sizes: Floats) -> tuple[float, float, float]:
    """A proportion of clustered counts with its 95% interval: value, low, high.

    Korn and Graubard, Confidence intervals for proportions with small expected number of positive counts estimated
    from survey data (Survey Methodology 1998): the exact binomial interval (Clopper and Pearson 1934) at the effective
    number of independent pairs, the one that has the observed standard error between queries. A bootstrap has nothing
    to resample where a proportion is 0 or all hits are in one query. If no query has a hit, or all pairs are hits, no
    spread between queries is visible and pairs count as independent.

    By simulation with 25 queries of some 160 pairs (1,000 draws each) it covered proportions of 0.1 to 5% in 95–98% of
    draws with independent failures and in 90–96% with weakly clustered ones (intraclass correlation 0.01). With five
    times that correlation it covered proportions of 0.5% and more in 86–93%, and one of 0.1% in 66%: failures confined
    to one query in hundreds cannot be observed in 25.

    Args:
        hits: Hits of each query, `(queries,)`.
        sizes: Pairs of each query, `(queries,)`.

    Examples:
        >>> value, low, high = rate(np.array([0.0, 0.0]), np.array([50.0, 50.0]))
        >>> value, low, round(high, 3)
        (0.0, 0.0, 0.036)
    """
    from scipy import stats

    n, queries = float(sizes.sum()), len(sizes)
    proportion = float(hits.sum()) / n
    effective = n
    variance = float(((hits - proportion * sizes) ** 2).sum()) * queries / max(queries - 1, 1) / n**2
    if variance > 0 and queries > 1:
        t_ratio = (stats.t.ppf(0.975, n - 1) / stats.t.ppf(0.975, queries - 1)) ** 2
        effective = min(n, proportion * (1 - proportion) / variance * t_ratio)
    count = proportion * effective
    low = stats.beta.ppf(0.025, count, effective - count + 1) if proportion > 0 else 0.0
    high = stats.beta.ppf(0.975, count + 1, effective - count) if proportion < 1 else 1.0
    return proportion, float(np.clip(low, 0, proportion)), float(np.clip(high, proportion, 1))
