"""Simulation of measure values with known means, and the tables of coverage."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from searchlora.eval.formatting import markdown_table

RANKS = np.array([0, *(1 / rank for rank in range(1, 11))])
#: Distribution of MRR@10 for a good and for a poor system: many zeros, some ones, few values between.
GOOD = np.array([0.50, 0.22, 0.08, 0.05, 0.04, 0.03, 0.02, 0.02, 0.02, 0.01, 0.01])
POOR = np.array([0.85, 0.04, 0.02, 0.02, 0.02, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005])
#: Differences of MRR when few queries change, most of them for the better.
GAINS, GAIN_CHANCES = np.array([-0.1, 0.1, 0.5, 1.0]), np.array([0.3, 0.4, 0.2, 0.1])

#: Observed nDCG differences of 28 queries of the synthetic shop: mostly ties, few large differences both ways.
MIXED = np.array(
    [-0.71, -0.69, -0.42, -0.05, *[0.0] * 13, 0.02, 0.06, 0.11, 0.12, 0.16, 0.22, 0.25, 0.26, 0.35, 0.4, 0.64]
)

#: Distribution -> description.
KINDS = {
    "spread": "a measure from 0 to 1, most values near the ends",
    "good": "MRR@10 of a good system",
    "poor": "MRR@10 of a poor system, 85% zeros",
    "success": "a measure that is 0 or 1, mean 0.9",
    "difference": "a difference of nDCG, half of it ties",
    "gain": "a difference of MRR, 70% ties, few large gains",
    "mixed": "a difference of nDCG, half of it ties, few large differences both ways",
}

#: Distribution of differences with true mean 0 -> description.
NULLS = {
    "spread": "two equal systems, values from 0 to 1",
    "good": "MRR@10 of two equal good systems",
    "poor": "MRR@10 of two equal poor systems, most of it ties",
    "ties": "80% ties, the rest even about 0",
    "coarse": "80% ties, the rest one of four values: few p values are possible, none of them just below 0.05",
    "lopsided": "mean 0, but few large gains and many small losses: the systems are not exchangeable",
}


def draws(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Values from a distribution, and its true mean."""
    if kind == "spread":
        return rng.beta(0.7, 0.7, shape), 0.5
    if kind == "success":
        return (rng.random(shape) < 0.9).astype(float), 0.9
    if kind == "difference":
        return np.where(rng.random(shape) < 0.5, 0, rng.beta(2, 3, shape) - 0.3), 0.5 * (0.4 - 0.3)
    if kind == "gain":
        changed = rng.choice(GAINS, p=GAIN_CHANCES, size=shape)
        return np.where(rng.random(shape) < 0.7, 0, changed), 0.3 * float(GAINS @ GAIN_CHANCES)
    if kind == "mixed":
        return rng.choice(MIXED, size=shape), float(MIXED.mean())
    chances = {"good": GOOD, "poor": POOR}[kind]
    return rng.choice(RANKS, p=chances, size=shape), float(RANKS @ chances)


def null_draws(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Differences with true mean 0; the systems are exchangeable except for `lopsided`."""
    if kind == "ties":
        return np.where(rng.random(shape) < 0.8, 0, rng.uniform(-0.5, 0.5, shape))
    if kind == "coarse":
        return np.where(rng.random(shape) < 0.8, 0, rng.choice([-0.5, -0.2, 0.2, 0.5], size=shape))
    if kind == "lopsided":
        return rng.choice([-0.1, 0.0, 0.5], p=[0.25, 0.7, 0.05], size=shape)
    return draws(kind, shape, rng)[0] - draws(kind, shape, rng)[0]


TOPICS = (43, 200)


def row(system: str, measure: str, hits: int, count: int, more: dict[str, Any]) -> dict[str, Any]:
    """A results row: a share of the draws with its exact (Clopper–Pearson) 95% interval."""
    low, high = stats.binomtest(int(hits), count).proportion_ci(method="exact")
    figures = {"value": float(hits / count), "low": float(low), "high": float(high), "n": count}
    return {"system": system, "measure": measure, **figures, **more}


def band(count: int) -> tuple[float, float]:
    """The interval that contains the rejection rate of 95% of simulations if the true level is 0.05."""
    low, high = stats.binom.interval(0.95, count, 0.05)
    return float(low / count), float(high / count)


def markdown(rows: list[dict[str, Any]], kinds: list[str], what: str) -> str:
    """A Markdown table with a row for each n and method, a column for each distribution."""
    cells = {(row["system"], row["measure"].partition(", ")[2]): row for row in rows}
    lines = [
        [system, str(n), *(_cell(cells[system, f"{kind}, n = {n}"]) for kind in kinds)]
        for n in TOPICS
        for system in dict.fromkeys(row["system"] for row in rows)
    ]
    return markdown_table([what, "n", *kinds], lines, words=2)


def _cell(found: dict[str, Any]) -> str:
    if "below" in found:
        return f"{found['value']:.3f} ({found['below']:.3f} / {found['above']:.3f})"
    return f"{found['value']:.4f}{'' if found['inside_band'] else ' (outside)'}"
