"""Coverage of 95% intervals of aggregates and level of the swap test, by simulation.

    python -m benchmarks.statistics.intervals.aggregates [--draws 500]

Kappa of grades clustered by query, macro-F1 of ten labels, F1 of one class and calibration error, at n = 43 and 200
queries or rows. Writes `benchmarks/results/intervals_aggregates.json` and prints it as Markdown.
Takes some minutes on 2 cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks.common import save_figures
from benchmarks.statistics.intervals.simulation import TOPICS, band, markdown, row
from searchlora.eval.aggregate import Aggregate, f1, macro_f1
from searchlora.eval.calibration import expected_calibration_error
from searchlora.eval.figures import AggregateTable, Resampling, aggregate_figures, aggregate_table
from searchlora.eval.grade_measures import KAPPA, grade_measures

RESAMPLES = 1_000
OURS, PERCENTILE = "bootstrap-t, limited (ours)", "percentile"
#: Number of clusters from which the true value is computed.
_MANY = 40_000

#: Two equally good systems over the same rows, and the cluster of each row that shares one.
_Drawn = tuple[Aggregate, Aggregate, Mapping[str, str]]


def _kappa(n: int, rng: np.random.Generator) -> _Drawn:
    """Four grades, about 14 pairs per query; queries differ in size and in the quality of the judge."""
    sizes = np.clip(rng.lognormal(2.5, 0.5, n), 3, 60).astype(int)
    query = np.repeat(np.arange(n), sizes)
    true = rng.choice(4, len(query), p=(0.5, 0.25, 0.15, 0.1))
    predictions = [
        np.where(rng.random(len(query)) < rng.beta(3, 3, n)[query], true, rng.integers(0, 4, len(query))) for _ in "ab"
    ]
    gold, a, b = (_rows(side.tolist()) for side in (true, *predictions))
    measure = grade_measures((0, 1, 2, 3), 2)[KAPPA]
    figures = [measure.aggregate(gold, predicted) for predicted in (a, b)]
    return figures[0], figures[1], {str(row): f"q{topic}" for row, topic in enumerate(query)}


def _macro_f1(n: int, rng: np.random.Generator) -> _Drawn:
    """Ten labels, the most frequent four times as frequent as the rarest, predicted correctly in 50 to 95%."""
    labels = [f"label {index}" for index in range(10)]
    frequent = np.linspace(4, 1, 10)
    true = rng.choice(10, n, p=frequent / frequent.sum())
    right = np.linspace(0.95, 0.5, 10)[true]
    predictions = [np.where(rng.random(n) < right, true, rng.integers(0, 10, n)) for _ in "ab"]
    gold, a, b = (_rows([labels[index] for index in side]) for side in (true, *predictions))
    return macro_f1(gold, a, labels), macro_f1(gold, b, labels), {}


def _f1(n: int, rng: np.random.Generator) -> _Drawn:
    """30% of the rows are in the class; recall 70%, false positive rate 10%."""
    true = rng.random(n) < 0.3
    predictions = [rng.random(n) < np.where(true, 0.7, 0.1) for _ in "ab"]
    gold, a, b = (_rows(side.tolist()) for side in (true, *predictions))
    return f1(gold, a), f1(gold, b), {}


def _calibration(n: int, rng: np.random.Generator) -> _Drawn:
    """Probabilities of about 0.7; the true probability is 0.85 times as large."""
    figures = []
    for _ in "ab":
        confidences = rng.beta(4, 1.5, n)
        right = rng.random(n) < 0.85 * confidences
        figures.append(expected_calibration_error(_rows(confidences.tolist()), _rows(right.tolist())))
    return figures[0], figures[1], {}


def _rows(values: list[Any]) -> dict[str, Any]:
    return {str(row): value for row, value in enumerate(values)}


SHAPES: Mapping[str, Callable[[int, np.random.Generator], _Drawn]] = {
    "kappa": _kappa,
    "macro-F1": _macro_f1,
    "F1 of one class": _f1,
    "calibration error": _calibration,
}


def main() -> None:
    arguments = argparse.ArgumentParser(description="Coverage and level of aggregates, by simulation.")
    arguments.add_argument("--draws", type=int, default=500)
    count = arguments.parse_args().draws
    covered = [row for n in TOPICS for kind in SHAPES for row in _coverage(kind, n, count)]
    rejected = [_rejections(kind, n, count) for n in TOPICS for kind in SHAPES]
    low, high = band(count)
    table = "\n\n".join(
        [
            f"Coverage of 95% intervals in {count} draws (truth below / above the interval):",
            markdown(covered, list(SHAPES), "interval"),
            f"Rejections at 0.05 for two equal systems in {count} draws; their 95% band is {low:.4f} to {high:.4f}:",
            markdown(rejected, list(SHAPES), "test"),
        ]
    )
    shapes = {kind: made.__doc__ for kind, made in SHAPES.items()}
    more = {"values": shapes, "draws": count, "resamples": RESAMPLES, "band": [low, high], "table": table}
    path = save_figures(
        "intervals_aggregates", [*covered, *rejected], [], more, module="statistics.intervals.aggregates"
    )
    print(f"{table}\n\nWritten: {path}")


def _coverage(kind: str, n: int, count: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(n)
    truth = SHAPES[kind](_MANY, np.random.default_rng(0))[0].value
    found: dict[str, list[tuple[float, float]]] = {OURS: [], PERCENTILE: []}
    for draw in range(count):
        drawn = _pool(kind, n, rng)
        (ours, _), _ = aggregate_figures(drawn, (), Resampling(RESAMPLES, draw))
        found[OURS].append((ours.low, ours.high))
        picked = rng.multinomial(len(drawn.sums), np.full(len(drawn.sums), 1 / len(drawn.sums)), RESAMPLES)
        values = drawn.statistic(picked @ drawn.sums[:, 0])
        found[PERCENTILE].append(tuple(np.nanquantile(values, [0.025, 0.975])))
    for name, ends in found.items():
        low, high = np.array(ends).T
        missed = {"below": float((truth < low).mean()), "above": float((truth > high).mean())}
        more = {**missed, "width": float((high - low).mean())}
        yield row(name, f"coverage, {kind}, n = {n}", ((low <= truth) & (truth <= high)).sum(), count, more)


def _rejections(kind: str, n: int, count: int) -> dict[str, Any]:
    rng = np.random.default_rng(n + 1)
    rejected = 0
    for draw in range(count):
        _, (pair,) = aggregate_figures(_pool(kind, n, rng), [("a", "b")], Resampling(RESAMPLES, draw))
        rejected += pair.p <= 0.05
    low, high = band(count)
    inside = bool(low <= rejected / count <= high)
    return row("swap", f"rejections, {kind}, n = {n}", rejected, count, {"inside_band": inside})


def _pool(kind: str, n: int, rng: np.random.Generator) -> AggregateTable:
    a, b, clusters = SHAPES[kind](n, rng)
    return aggregate_table(kind, {"a": a, "b": b}, list(a.cells), {row: clusters.get(row, row) for row in a.cells})


if __name__ == "__main__":
    main()
