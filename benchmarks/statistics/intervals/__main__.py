"""Coverage of 95% intervals of means and level of paired tests, by simulation.

    python -m benchmarks.statistics.intervals [--draws 2000]

For each distribution of values and n = 43 and 200 topics, 2,000 draws: five intervals, and the sign-flip test and the t
test under the null hypothesis. Writes `benchmarks/results/intervals.json` and prints it as Markdown. Takes some minutes
on 2 cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.common import save_figures
from benchmarks.statistics.intervals.alternatives import resampled, student
from benchmarks.statistics.intervals.simulation import KINDS, NULLS, TOPICS, band, draws, markdown, null_draws, row
from searchlora.eval.intervals import bootstrap_intervals
from searchlora.eval.significance import paired_differences

RESAMPLES = 10_000
OURS = "bootstrap-t, limited (ours)"
#: Number of draws per batch; bounds the memory.
_AT_ONCE = 100


def main() -> None:
    arguments = argparse.ArgumentParser(description="Coverage of intervals and level of tests, by simulation.")
    arguments.add_argument("--draws", type=int, default=2_000)
    count = arguments.parse_args().draws
    covered = [row for n in TOPICS for kind in KINDS for row in _coverage(kind, n, count)]
    rejected = [row for n in TOPICS for kind in NULLS for row in _rejections(kind, n, count)]
    rows = [*covered, *rejected]
    low, high = band(count)
    table = "\n\n".join(
        [
            f"Coverage of 95% intervals in {count} draws (truth below / above the interval):",
            markdown(covered, list(KINDS), "interval"),
            f"Rejections at 0.05 under the null hypothesis in {count} draws; "
            f"their 95% band is {low:.4f} to {high:.4f}:",
            markdown(rejected, list(NULLS), "test"),
        ]
    )
    more = {"values": KINDS, "nulls": NULLS, "draws": count, "resamples": RESAMPLES, "band": [low, high]}
    path = save_figures("intervals", rows, [], {**more, "table": table}, module="statistics.intervals")
    print(f"{table}\n\nWritten: {path}")


def _coverage(kind: str, n: int, count: int) -> Iterator[dict[str, Any]]:
    values, truth = draws(kind, (n, count), np.random.default_rng(n))
    rng = np.random.default_rng(n + 1)
    found: dict[str, list[np.ndarray]] = {}
    for start in range(0, count, _AT_ONCE):
        part = values[:, start : start + _AT_ONCE]
        draw = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)
        seed = int(rng.integers(2**31))
        intervals = {OURS: bootstrap_intervals(part, resamples=RESAMPLES, seed=seed), "Student": student(part)}
        for name, interval in {**intervals, **resampled(part, draw)}.items():
            found.setdefault(name, []).append(interval)
    for name, parts in found.items():
        low, high = np.concatenate(parts).T
        missed = {"below": float((truth < low).mean()), "above": float((truth > high).mean())}
        more = {**missed, "width": float((high - low).mean())}
        yield row(name, f"coverage, {kind}, n = {n}", ((low <= truth) & (truth <= high)).sum(), count, more)


def _rejections(kind: str, n: int, count: int) -> Iterator[dict[str, Any]]:
    differences = null_draws(kind, (n, count), np.random.default_rng(n + 2))
    found = paired_differences(differences, resamples=RESAMPLES)
    for name, rejected in (
        ("sign flip", sum(comparison.p <= 0.05 for comparison in found)),
        ("t", sum(comparison.p_t <= 0.05 for comparison in found)),
    ):
        low, high = band(count)
        inside = bool(low <= rejected / count <= high)
        yield row(name, f"rejections, {kind}, n = {n}", rejected, count, {"inside_band": inside})


if __name__ == "__main__":
    main()
