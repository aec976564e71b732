"""The figures of a judge card, by name: how each is computed from a table of counts, and what it is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from searchlora.errors import UsageError
from searchlora.eval.judge import agreement
from searchlora.eval.judge.agreement import Floats
from searchlora.eval.resampling import Figure, Statistic, intervals

Mask: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.bool_]]

#: What a judge is told by first. The names of `judge_measures`.
KAPPA, BINARY, QUADRATIC, MAE = "kappa", "kappa_binary", "kappa_quadratic", "mae"


@dataclass(frozen=True)
class JudgeMeasure:
    """A figure of agreement.

    Attributes:
        statistic: Tables `(..., G, G + 1)` -> figures `(...)`.
        bounds: The least and greatest value there can be.
        of: The cells that it is over, `(G, G + 1)`, True where a pair counts.
        hits: Of a share, the cells that are counted in it; None for other figures. A share without spread between
            queries, as 0 mostly is, takes its interval from `rates`.
    """

    name: str
    statistic: Statistic
    bounds: tuple[float, float]
    of: Mask
    hits: Mask | None = None

    def figure(self, tables: Floats, *, resamples: int, seed: int) -> Figure:
        """The figure of one judge from its tables `(queries, G, G + 1)`."""
        value, low, high = intervals(
            self.statistic, tables[:, None], bounds=self.bounds, resamples=resamples, seed=seed
        )[0]
        counted = (tables * self.of).sum(axis=(-2, -1))
        if self.hits is not None and low == high:
            value, low, high = rate((tables * self.hits).sum(axis=(-2, -1)), counted)
        return Figure(float(value), float(low), float(high), int(counted.sum()), int((counted > 0).sum()))


def judge_measures(scale: Sequence[int], relevant: int) -> dict[str, JudgeMeasure]:
    """The measures for a scale, by name, the headline first.

    `kappa` is over all grades, `kappa_binary` over relevant (from grade `relevant` on) or not, `kappa_linear` and
    `kappa_quadratic` are weighted, `agreement` is the share of equal grades, `mae` the mean absolute error; these are
    over all pairs, an invalid label counted as the worst (see `agreement`). `alpha` (Krippendorff's, ordinal), `bias`
    (judge minus human) and those that end in `_valid` are over the pairs with a valid label.

    Raises:
        UsageError: when `relevant` leaves one side without a grade.
    """
    width = float(max(scale) - min(scale))
    two = agreement.disagreement((0, 1))
    every = np.ones((len(scale), len(scale) + 1), dtype=bool)
    graded = every.copy()
    graded[:, -1] = False
    agreement.binary(every.astype(float), scale, relevant)  # says so where the threshold divides nothing

    def weighted(kind: agreement.Weights) -> Statistic:
        return partial(agreement.kappa, weights=agreement.disagreement(scale, kind))

    def binary(tables: Floats) -> Floats:
        return agreement.kappa(agreement.binary(tables, scale, relevant), two)

    def alpha(tables: Floats) -> Floats:
        return agreement.alpha(agreement.paired_coincidences(tables), scale)

    def mae(tables: Floats) -> Floats:
        return agreement.mean_absolute_error(tables, scale)

    def valid(statistic: Statistic) -> Statistic:
        return lambda tables: statistic(agreement.valid(tables))

    one = (-1.0, 1.0)
    listed = [
        JudgeMeasure(KAPPA, weighted("none"), one, every),
        JudgeMeasure(BINARY, binary, one, every),
        JudgeMeasure("kappa_linear", weighted("linear"), one, every),
        JudgeMeasure(QUADRATIC, weighted("quadratic"), one, every),
        JudgeMeasure("alpha", alpha, one, graded),
        JudgeMeasure("agreement", agreement.agreement_rate, (0.0, 1.0), every, np.eye(*every.shape, dtype=bool)),
        JudgeMeasure(MAE, mae, (0.0, width), every),
        JudgeMeasure("bias", partial(agreement.signed_bias, scale=scale), (-width, width), graded),
        JudgeMeasure("kappa_valid", valid(weighted("none")), one, graded),
        JudgeMeasure("kappa_binary_valid", valid(binary), one, graded),
        JudgeMeasure("mae_valid", valid(mae), (0.0, width), graded),
    ]
    return {measure.name: measure for measure in listed}


def grade_measures(scale: Sequence[int], index: int) -> tuple[JudgeMeasure, JudgeMeasure]:
    """Precision and recall of the grade at `index`; a label that is invalid is among those not recalled."""
    said = np.zeros((len(scale), len(scale) + 1), dtype=bool)
    truly = said.copy()
    said[:, index], truly[index] = True, True
    grade, hit = scale[index], said & truly
    return (
        JudgeMeasure(f"precision_{grade}", partial(agreement.precision, index=index), (0.0, 1.0), said, hit),
        JudgeMeasure(f"recall_{grade}", partial(agreement.recall, index=index), (0.0, 1.0), truly, hit),
    )


def invalid_figure(tables: Floats) -> Figure:
    """The share of invalid labels of one judge, from its tables `(queries, G, G + 1)`, with the interval of `rates`."""
    sizes = tables.sum(axis=(-2, -1))
    found = rate(tables[..., -1].sum(axis=-1), sizes)
    return Figure(*found, int(sizes.sum()), len(tables))


def named(measures: dict[str, JudgeMeasure], name: str) -> JudgeMeasure:
    """The measure of that name. Raises `UsageError` where there is none."""
    if name not in measures:
        raise UsageError(f"there is no measure '{name}' of a judge", fix=f"Known: {', '.join(measures)}.")
    return measures[name]


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
    share = float(hits.sum()) / n
    effective = n
    spread = float(((hits - share * sizes) ** 2).sum()) * queries / max(queries - 1, 1) / n**2
    if spread > 0 and queries > 1:
        narrowing = (stats.t.ppf(0.975, n - 1) / stats.t.ppf(0.975, queries - 1)) ** 2
        effective = min(n, share * (1 - share) / spread * narrowing)
    count = share * effective
    low = stats.beta.ppf(0.025, count, effective - count + 1) if share > 0 else 0.0
    high = stats.beta.ppf(0.975, count + 1, effective - count) if share < 1 else 1.0
    return share, float(np.clip(low, 0, share)), float(np.clip(high, share, 1))
