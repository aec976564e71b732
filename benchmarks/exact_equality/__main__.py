"""What exact equality costs: answers that do not depend on their batch, in bf16 and fp32, and training beside it.

    python -m benchmarks.exact_equality
    python -m benchmarks.exact_equality --before CHECKOUT    this checkout beside another one, such as a git worktree

SmolLM2-135M with eight adapters of rank 16 on all linear layers: 32 rows of 64 tokens read and 32 tokens of each
written, with the default engine, whose answers are equal to the last bit in any batch, and with `batch_invariant:
false`. Training: LoRA, rows of about 60 tokens, which has no such promise and shares the kernels. Every checkout and
precision has a process of its own; they take turns in each repeat. About ten minutes for two checkouts, on an otherwise
idle machine.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, WORK, parser, print_or_save_speeds
from benchmarks.speed import speed_ratio, speed_row, worker

EXACT, FREE, TRAINING = "equal in any batch", "batch_invariant: false", "training"
_OF_ENGINE = ("prompt tokens/s", "new tokens/s")
MEASURES = {EXACT: _OF_ENGINE, FREE: _OF_ENGINE, TRAINING: ("tokens/s",)}
PRECISIONS = ("bf16", "fp32")


def main() -> None:
    arguments = parser("exact_equality")
    arguments.add_argument("--before", type=Path, metavar="CHECKOUT")
    arguments.add_argument("--repeats", type=int, default=5)
    options = arguments.parse_args()
    checkouts = {"now": ROOT, **({"before": options.before.resolve()} if options.before else {})}
    rows: list[dict[str, Any]] = []
    comparisons: list[dict[str, Any]] = []
    for precision in PRECISIONS:
        speeds = _take_turns(checkouts, precision, options.repeats)
        rows += [speed_row(system, measure, values) for (system, measure), values in speeds.items()]
        comparisons += _ratios(speeds, precision, bool(options.before))
    print_or_save_speeds("exact_equality", rows, comparisons)


def _take_turns(checkouts: dict[str, Path], precision: str, repeats: int) -> dict[tuple[str, str], list[float]]:
    """Speeds of each system and measure; the first repeat warms up and is not counted."""
    work = WORK / "exact_equality"
    work.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(Path(__file__).with_name("process.py")), precision, str(work)]
    speeds: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        workers = {}
        for name, checkout in checkouts.items():
            how = {"environment": {**os.environ, "PYTHONPATH": str(checkout)}, "log": work / f"{name} {precision}.log"}
            workers[name] = stack.enter_context(worker(command, cwd=checkout, **how))  # type: ignore[arg-type]
        for repeat in range(repeats + 1):
            for system, measures in MEASURES.items():
                for name, measured in workers.items():
                    values = measured(system)
                    if repeat:
                        for measure, value in zip(measures, values, strict=True):
                            speeds.setdefault((f"{system}, {precision}, {name}", measure), []).append(value)
            print(f"{precision}: {repeat} of {repeats} repeats", file=sys.stderr)
    return speeds


def _ratios(speeds: dict[tuple[str, str], list[float]], precision: str, has_before: bool) -> list[dict[str, Any]]:
    pairs = [(f"{EXACT}, {precision}, now", f"{FREE}, {precision}, now")]
    if has_before:
        pairs += [(f"{system}, {precision}, now", f"{system}, {precision}, before") for system in MEASURES]
    return [
        speed_ratio(a, b, measure, speeds[a, measure], speeds[b, measure])
        for a, b in pairs
        for system, measure in speeds
        if system == a
    ]


if __name__ == "__main__":
    main()
