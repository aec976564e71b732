"""A comparison as JSON (the format of benchmark results) and as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from searchlora.eval.comparison import Comparison, PairedComparison, SystemScore
from searchlora.eval.formatting import to_plain
from searchlora.eval.report.blocks import markdown
from searchlora.eval.report.heat_maps import slices_section
from searchlora.eval.report.sections import (
    costs_section,
    notes_section,
    pairs_section,
    systems_section,
    unjudged_section,
)


@dataclass(frozen=True)
class Header:
    """Provenance of the figures, supplied by the caller, since eval reads neither the clock nor the machine.

    Attributes:
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
    """The content of `benchmarks/results/NAME.json`; an undefined value is None, never NaN.

    `rows` and `comparisons` are always present. The other keys are present if they are not empty: `slices`,
    `slice_comparisons`, `unjudged`, `costs`, `circular`,
    `aggregates` (measures that are not means), `less_is_better`, `zero_is_best` and `notes`. Figures of a circular
    system have a key `circular` with the reason.
    """
    more = {
        "slices": [
            {"slice": part.slice, "value_of_slice": part.value, **_row(comparison, part.row)}
            for part in comparison.slices
        ],
        "slice_comparisons": [
            {"slice": part.slice, "value_of_slice": part.value, **_compared(comparison, part.pair)}
            for part in comparison.slice_pairs
        ],
        "unjudged": [_row(comparison, row) for row in comparison.unjudged],
        "costs": {system: to_plain(costs) for system, costs in comparison.costs.items()},
        "circular": dict(comparison.circular),
        "aggregates": list(comparison.aggregates),
        "less_is_better": list(comparison.less_is_better),
        "zero_is_best": list(comparison.zero_is_best),
        "notes": list(comparison.notes),
    }
    return {
        "benchmark": header.benchmark,
        "command": header.command,
        "date": header.date,
        "machine": header.machine,
        "versions": dict(header.versions),
        "rows": [_row(comparison, row) for row in comparison.rows],
        "comparisons": [_compared(comparison, pair) for pair in comparison.comparisons],
        **{key: figures for key, figures in more.items() if figures},
    }


def to_markdown(comparison: Comparison) -> str:
    """The tables of a report as Markdown, and the notes.

    Examples:
        >>> from searchlora.eval.comparison import compare
        >>> from searchlora.eval.evaluation import Evaluation
        >>> base = Evaluation("MRR", {"MRR": {"q1": 0.5, "q2": 0.5, "q3": 0.5}}, clusters={})
        >>> comparison = compare({"base": base, "copy": base}, baseline="base", resamples=100)
        >>> print(to_markdown(comparison).splitlines()[0])
        | system | MRR | n | invalid |
    """
    circular = [f"{comparison.label(system)}: {reason}" for system, reason in comparison.circular.items()]
    return markdown(
        [
            systems_section(comparison, plots=False),
            pairs_section(comparison),
            slices_section(comparison),
            unjudged_section(comparison),
            costs_section(comparison),
            notes_section([*circular, *comparison.notes]),
        ]
    )


def _row(comparison: Comparison, row: SystemScore) -> dict[str, Any]:
    return {**to_plain(vars(row)), **_marked(comparison, row.system)}


def _compared(comparison: Comparison, pair: PairedComparison) -> dict[str, Any]:
    return {**to_plain(vars(pair)), **_marked(comparison, pair.a, pair.b)}


def _marked(comparison: Comparison, *systems: str) -> dict[str, str]:
    reasons = [comparison.circular[system] for system in systems if system in comparison.circular]
    return {"circular": "; ".join(dict.fromkeys(reasons))} if reasons else {}
