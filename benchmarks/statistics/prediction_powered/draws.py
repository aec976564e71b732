"""Many draws of human labels: how often an interval holds the truth, how long it is, what a judge adds to it."""

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
    """What people and the judge labelled in one draw, as `prediction_powered_mean` takes it."""

    human: Mapping[str, float]
    judged: Mapping[str, float]
    clusters: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Interval:
    """An interval of one draw."""

    value: float
    low: float
    high: float


def intervals(sample: Sample, seed: int) -> tuple[PredictionPowered, dict[str, Interval]]:
    """With the judge; of people alone, as the project always has it; and by the same bootstrap as with the judge."""
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
    """A row for each measure, with its 95% interval over the draws.

    Coverage of each method; the mean width with the judge over that of people alone by the same bootstrap; and what the
    judge's labels are worth: the squared error of people alone over that with the judge, so 2 is as good as twice the
    human labels.

    Args:
        about: What was drawn, `system` among it; stands in each row.
        truth: The value that the intervals are for.
        drawn: For each draw, method -> interval.
        gains: For each draw `effective_n / n_human`, what the method itself says that the labels are worth.
    """
    more = {"n": len(drawn), "truth": truth}
    for method in drawn[0]:
        yield {**about, **_coverage(method, truth, drawn), **more}
    widths, errors = (
        np.array([[measured(each[method]) for method in (SAME, POWERED)] for each in drawn])
        for measured in (lambda interval: interval.high - interval.low, lambda interval: (interval.value - truth) ** 2)
    )
    yield {**about, "measure": "width to lambda 0", **_ratio(widths[:, ::-1]), **more}
    said = {"said": float(np.median(gains))}
    yield {**about, "measure": "labels worth", **_ratio(errors), **more, **said}


def _coverage(method: str, truth: float, drawn: Sequence[Mapping[str, Interval]]) -> dict[str, Any]:
    from statsmodels.stats.proportion import proportion_confint

    held = sum(each[method].low <= truth <= each[method].high for each in drawn)
    low, high = proportion_confint(held, len(drawn), method="wilson")
    bias = float(np.mean([each[method].value for each in drawn]) - truth)
    return {
        "measure": f"coverage, {method}",
        "value": held / len(drawn),
        "low": float(low),
        "high": float(high),
        "bias": bias,
    }


def _ratio(columns: NDArray[np.float64]) -> dict[str, float]:
    """Sum of the first column over that of the second, with its percentile interval over rows."""
    at = np.random.default_rng(0).integers(0, len(columns), (_RATIO_RESAMPLES, len(columns)))
    totals = columns[at].sum(axis=1)
    low, high = np.quantile(totals[:, 0] / totals[:, 1], [0.025, 0.975])
    value = columns[:, 0].sum() / columns[:, 1].sum()
    return {"value": float(value), "low": float(low), "high": float(high)}
