"""Repeated draws of human labels: coverage and width of intervals, and the value of the judge's labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchlora.eval.judge.prediction_powered import PredictionPowered, prediction_powered_mean

POWERED, ALONE, SAME = "prediction-powered", "human only", "lambda 0"

DRAWS = 500
RESAMPLES = 500

_RATIO_RESAMPLES = 1_000


@dataclass(frozen=True)
class Sample:
    """Labels of people and of the judge in one draw: the arguments of `prediction_powered_mean`."""

    human: Mapping[str, float]
    judged: Mapping[str, float]
    clusters: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Interval:
    """The interval of one draw."""

    value: float
    low: float
    high: float


def intervals(sample: Sample, seed: int) -> tuple[PredictionPowered, dict[str, Interval]]:
    """Intervals with the judge, of people alone by the default method, and of people alone by the same bootstrap."""
    found, without = (
        prediction_powered_mean(sample.human, sample.judged, sample.clusters, lam=lam, resamples=RESAMPLES, seed=seed)
        for lam in (None, 0.0)
    )
    return found, {
        POWERED: Interval(found.value, found.low, found.high),
        ALONE: Interval(found.human_only_value, found.human_only_low, found.human_only_high),
        SAME: Interval(without.value, without.low, without.high),
    }


def summary(
    about: Mapping[str, Any], truth: float, drawn: Sequence[Mapping[str, Interval]], gains: Sequence[float]
) -> Iterator[dict[str, Any]]:
    """A results row for each measure, with its 95% interval over the draws.

    Measures: coverage of each method; mean width with the judge relative to people alone by the same bootstrap; and the
    value of the judge's labels, the squared error of people alone divided by that with the judge (2 equals twice the
    human labels).

    Args:
        about: Keys of every row, including `system`.
        truth: The true value.
        drawn: Method -> interval, for each draw.
        gains: `effective_n / n_human` of each draw, the method's own estimate of the value.
    """
    more = {"n": len(drawn), "truth": truth}
    for method in drawn[0]:
        yield {**about, **_coverage(method, truth, drawn), **more}
    widths, errors = (
        np.array([[measured(draw[method]) for method in (SAME, POWERED)] for draw in drawn])
        for measured in (lambda interval: interval.high - interval.low, lambda interval: (interval.value - truth) ** 2)
    )
    yield {**about, "measure": "width to lambda 0", **_ratio(widths[:, ::-1]), **more}
    estimated = {"estimated": float(np.median(gains))}
    yield {**about, "measure": "labels worth", **_ratio(errors), **more, **estimated}


def _coverage(method: str, truth: float, drawn: Sequence[Mapping[str, Interval]]) -> dict[str, Any]:
    from statsmodels.stats.proportion import proportion_confint

    held = sum(draw[method].low <= truth <= draw[method].high for draw in drawn)
    low, high = proportion_confint(held, len(drawn), method="wilson")
    bias = float(np.mean([draw[method].value for draw in drawn]) - truth)
    return {
        "measure": f"coverage, {method}",
        "value": held / len(drawn),
        "low": float(low),
        "high": float(high),
        "bias": bias,
    }


def _ratio(columns: NDArray[np.float64]) -> dict[str, float]:
    """Ratio of the sums of two columns, with its percentile interval over rows."""
    at = np.random.default_rng(0).integers(0, len(columns), (_RATIO_RESAMPLES, len(columns)))
    totals = columns[at].sum(axis=1)
    low, high = np.quantile(totals[:, 0] / totals[:, 1], [0.025, 0.975])
    value = columns[:, 0].sum() / columns[:, 1].sum()
    return {"value": float(value), "low": float(low), "high": float(high)}
