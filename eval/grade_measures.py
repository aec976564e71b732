"""Measures of predicted grades against human ones: by name, from confusion tables, with intervals by query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from searchlora.eval import agreement
from searchlora.eval.aggregate import Aggregate, prediction
from searchlora.eval.agreement import Floats
from searchlora.eval.intervals import proportion
from searchlora.eval.resampling import Estimate, Statistic, estimate

Mask: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.bool_]]

#: Names of the main measures of `grade_measures`.
KAPPA, BINARY, QUADRATIC, MAE = "kappa", "kappa_binary", "kappa_quadratic", "mae"


@dataclass(frozen=True)
class GradeMeasure:
    """An agreement measure.

    Attributes:
        scale: The grades, ascending.
        statistic: Tables `(..., G, G + 1)` -> values `(...)`.
        bounds: The least and the greatest possible value.
        cells: Mask `(G, G + 1)` of the cells whose pairs count in `n`.
        hits: For a proportion, mask of the cells in its numerator; None for other measures. The interval of a
            proportion without spread between queries, mostly 0, is that of `intervals.proportion`.
    """

    name: str
    scale: tuple[int, ...]
    statistic: Statistic
    bounds: tuple[float, float]
    cells: Mask
    hits: Mask | None = None

    def estimate(self, tables: Floats, *, resamples: int, seed: int) -> Estimate:
        """Value and interval for one judge, from its tables `(queries, G, G + 1)`."""
        counted = (tables * self.cells).sum(axis=(-2, -1))
        n, queries = int(counted.sum()), int((counted > 0).sum())
        result = estimate(
            self.statistic, tables, n, bounds=self.bounds, queries=queries, resamples=resamples, seed=seed
        )
        if self.hits is not None and result.low == result.high:
            return Estimate(*proportion((tables * self.hits).sum(axis=(-2, -1)), counted), n, queries)
        return result

    def aggregate(self, gold: Mapping[str, int], predicted: Mapping[str, int | None]) -> Aggregate:
        """The measure over rows: row id -> human grade, and row id -> predicted grade.

        None, and a grade outside the scale, are invalid.

        Examples:
            >>> gold, predicted = {"d1": 0, "d2": 1, "d3": 2}, {"d1": 0, "d2": 1, "d3": 1}
            >>> grade_measures((0, 1, 2), 1)["kappa"].aggregate(gold, predicted).value
            0.5
        """
        shape = self.cells.shape
        cells = {
            row: agreement.confusion([grade], [prediction(predicted, row)], self.scale).reshape(-1)
            for row, grade in gold.items()
        }
        return Aggregate(cells, lambda sums: self.statistic(sums.reshape(*sums.shape[:-1], *shape)), self.bounds)


def grade_measures(scale: Sequence[int], relevant: int) -> dict[str, GradeMeasure]:
    """The measures for a scale, by name, the headline measure first.

    `kappa` (all grades), `kappa_binary` (grade at least `relevant` or not), `kappa_linear`, `kappa_quadratic`
    (weighted), `agreement` (proportion of equal grades) and `mae` (mean absolute error) are over all pairs, with
    invalid labels as the worst disagreement (see `agreement`). `alpha` (Krippendorff's, ordinal), `bias` (judge minus
    human) and the measures ending in `_valid` are over the pairs with a valid label.
    """
    scale = agreement.as_scale(scale)
    width = float(scale[-1] - scale[0])
    binary_weights = agreement.disagreement((0, 1))
    all_cells = np.ones((len(scale), len(scale) + 1), dtype=bool)
    valid_cells = all_cells.copy()
    valid_cells[:, -1] = False
    agreement.binary(all_cells.astype(float), scale, relevant)  # checks the threshold

    def weighted(kind: agreement.Weights) -> Statistic:
        return partial(agreement.kappa, weights=agreement.disagreement(scale, kind))

    def binary(tables: Floats) -> Floats:
        return agreement.kappa(agreement.binary(tables, scale, relevant), binary_weights)

    def alpha(tables: Floats) -> Floats:
        return agreement.alpha(agreement.paired_coincidences(tables))

    def mae(tables: Floats) -> Floats:
        return agreement.mean_absolute_error(tables, scale)

    def valid(statistic: Statistic) -> Statistic:
        return lambda tables: statistic(agreement.valid(tables))

    unit, share = (-1.0, 1.0), (0.0, 1.0)
    bias = partial(agreement.signed_bias, scale=scale)
    measures: dict[str, tuple[Statistic, tuple[float, float], Mask]] = {
        KAPPA: (weighted("none"), unit, all_cells),
        BINARY: (binary, unit, all_cells),
        "kappa_linear": (weighted("linear"), unit, all_cells),
        QUADRATIC: (weighted("quadratic"), unit, all_cells),
        "alpha": (alpha, unit, valid_cells),
        "agreement": (agreement.agreement_rate, share, all_cells),
        MAE: (mae, (0.0, width), all_cells),
        "bias": (bias, (-width, width), valid_cells),
        "kappa_valid": (valid(weighted("none")), unit, valid_cells),
        "kappa_binary_valid": (valid(binary), unit, valid_cells),
        "mae_valid": (valid(mae), (0.0, width), valid_cells),
    }
    hits = {"agreement": np.eye(*all_cells.shape, dtype=bool)}
    return {name: GradeMeasure(name, scale, *of, hits.get(name)) for name, of in measures.items()}


def measures_of_grade(scale: Sequence[int], index: int) -> tuple[GradeMeasure, GradeMeasure]:
    """Precision and recall of the grade at `index` of the scale; an invalid label counts as not recalled."""
    judged = np.zeros((len(scale), len(scale) + 1), dtype=bool)
    human = judged.copy()
    judged[:, index], human[index] = True, True
    scale, share = agreement.as_scale(scale), (0.0, 1.0)
    grade, hits = scale[index], judged & human
    precision, recall = (partial(statistic, index=index) for statistic in (agreement.precision, agreement.recall))
    return (
        GradeMeasure(f"precision_{grade}", scale, precision, share, judged, hits),
        GradeMeasure(f"recall_{grade}", scale, recall, share, human, hits),
    )


def invalid_rate(tables: Floats) -> Estimate:
    """Proportion of invalid labels of one judge, from its tables `(queries, G, G + 1)`."""
    sizes = tables.sum(axis=(-2, -1))
    return Estimate(*proportion(tables[..., -1].sum(axis=-1), sizes), int(sizes.sum()), len(tables))
