"""A comparison as the JSON of a benchmark's results, and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from searchlora.eval.compare import Comparison, Pair, Row


@dataclass(frozen=True)
class Header:
    """How the figures came about: given by whoever ran the systems, since eval looks at no clock and no machine.

    Args:
        benchmark: Name of the benchmark or experiment.
        command: The command that repeats it.
        date: ISO 8601.
        machine: Processor, cores, memory, accelerator, in words.
        versions: package -> version.
    """

    benchmark: str
    command: str
    date: str
    machine: str
    versions: Mapping[str, str]


def to_json(comparison: Comparison, header: Header) -> dict[str, Any]:
    """The object that `benchmarks/results/NAME.json` holds (DESIGN, Results); what is unknown is None, never NaN."""
    return {
        "benchmark": header.benchmark,
        "command": header.command,
        "date": header.date,
        "machine": header.machine,
        "versions": dict(header.versions),
        "rows": [_finite(vars(row)) for row in comparison.rows],
        "comparisons": [_finite(vars(pair)) for pair in comparison.comparisons],
    }


def to_markdown(comparison: Comparison) -> str:
    """Two tables, the systems and the paired comparisons, and the notes."""
    parts = [_systems(comparison)]
    if comparison.comparisons:
        parts.append(_pairs(comparison))
    if comparison.notes:
        parts.append("\n".join(f"* {note}" for note in comparison.notes))
    return "\n\n".join(parts) + "\n"


def figure(row: Row) -> str:
    """`0.310 (0.290 to 0.330)`."""
    return f"{row.value:.3f} {interval(row.low, row.high)}"


def interval(low: float, high: float, sign: str = "") -> str:
    """`(0.290 to 0.330)`; with sign "+", as differences are written."""
    if math.isnan(low):
        return "(no interval)"
    return f"({low:{sign}.3f} to {high:{sign}.3f})"


def chance(p: float) -> str:
    """A p value as it is printed: `0.032`, `<0.001`."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _systems(comparison: Comparison) -> str:
    figures = {(row.system, row.measure): row for row in comparison.rows}
    lines = [_line(["system", *comparison.measures, "n", "invalid"]), _line(["---"] * (len(comparison.measures) + 3))]
    for system in comparison.systems:
        cells = [figures[system, measure] for measure in comparison.measures]
        lines.append(_line([system, *map(figure, cells), _counts(cells), str(len(comparison.invalid.get(system, {})))]))
    return "\n".join([*lines, "", "Mean and 95% interval (studentised bootstrap over clusters)."])


def _counts(rows: list[Row]) -> str:
    """One number where all measures have the same rows, else one each."""
    counts = [str(row.n) for row in rows]
    return counts[0] if len(set(counts)) == 1 else "/".join(counts)


def _pairs(comparison: Comparison) -> str:
    head = ["comparison", "measure", "difference", "p", "p corrected", "wins/losses/ties"]
    lines = [_line(head), _line(["---"] * len(head)), *map(_pair, comparison.comparisons)]
    name = {"holm": "Holm", "bh": "Benjamini–Hochberg"}[comparison.correction]
    said = f"p by paired randomisation over clusters, corrected by {name} over the {len(comparison.comparisons)} rows."
    return "\n".join([*lines, "", said])


def _pair(pair: Pair) -> str:
    difference = f"{pair.difference:+.3f} {interval(pair.low, pair.high, '+')}"
    counts = f"{pair.wins}/{pair.losses}/{pair.ties}"
    names = f"{pair.a} − {pair.b}"
    return _line([names, pair.measure, difference, chance(pair.p), chance(pair.p_corrected), counts])


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _finite(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in fields.items()
    }
