"""Speed as all benchmarks measure and tell it: ways in turn in one process, medians, ratios within the run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

Outcome = TypeVar("Outcome")


def timed(ways: Mapping[str, Callable[[], Outcome]], repeats: int) -> tuple[dict[str, list[float]], dict[str, Outcome]]:
    """Seconds of each way in each repeat, and what each gave last.

    The ways take turns, so that whatever else the machine does falls on all; one repeat before is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    given: dict[str, Outcome] = {}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            begun = time.perf_counter()
            given[name] = way()
            if repeat:
                seconds[name].append(time.perf_counter() - begun)
    return seconds, given


def speed_row(system: str, measure: str, values: Sequence[float]) -> dict[str, Any]:
    """A row of results: the median, the least and the most of the repeats."""
    return {
        "system": system,
        "measure": measure,
        "value": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "n": len(values),
    }


def speed_ratio(a: str, b: str, measure: str, above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """A comparison: the ratio of the medians; the least and the most of the ratios within a repeat."""
    ratios = [one / other for one, other in zip(above, below, strict=True)]
    return {
        "a": a,
        "b": b,
        "measure": measure,
        "ratio": statistics.median(above) / statistics.median(below),
        "low": min(ratios),
        "high": max(ratios),
        "n": len(ratios),
    }
