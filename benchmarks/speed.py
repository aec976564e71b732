"""Measurement of speed: variants that take turns, and figures as medians with minimum and maximum."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

Outcome = TypeVar("Outcome")


def timed(ways: Mapping[str, Callable[[], Outcome]], repeats: int) -> tuple[dict[str, list[float]], dict[str, Outcome]]:
    """Seconds of each variant in each repeat, and its last result.

    The variants take turns, so other load on the machine affects all; one warm-up repeat is not counted.

    Args:
        ways: Name -> function.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Outcome] = {}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            begun = time.perf_counter()
            results[name] = way()
            if repeat:
                seconds[name].append(time.perf_counter() - begun)
    return seconds, results


def speed_row(system: str, measure: str, values: Sequence[float]) -> dict[str, Any]:
    """A results row: median, minimum and maximum over the repeats."""
    return {
        "system": system,
        "measure": measure,
        "value": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "n": len(values),
    }


def speed_ratio(a: str, b: str, measure: str, above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """A comparison: ratio of the medians, and minimum and maximum ratio within a repeat."""
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


@contextmanager
def worker(
    command: Sequence[str], *, cwd: Path, environment: Mapping[str, str], log: Path | None = None
) -> Iterator[Callable[[str], Any]]:
    """A process that does a job for each line of its stdin and answers with a line of JSON; it ends with the context.

    Args:
        log: File for what it writes to stderr; None: the stderr of this process.
    """
    with ExitStack() as stack:
        errors = None if log is None else stack.enter_context(log.open("w", encoding="utf-8"))
        pipe = subprocess.PIPE
        process = stack.enter_context(
            subprocess.Popen(command, cwd=cwd, env=environment, stdin=pipe, stdout=pipe, stderr=errors, text=True)
        )
        assert process.stdin is not None and process.stdout is not None
        requests, answers = process.stdin, process.stdout

        def call(line: str) -> Any:
            requests.write(f"{line}\n")
            requests.flush()
            answer = answers.readline()
            if not answer:
                raise RuntimeError(f"a measuring process ended: {' '.join(command)}; its log: {log or 'stderr'}")
            return json.loads(answer)

        try:
            yield call
        finally:
            process.kill()
