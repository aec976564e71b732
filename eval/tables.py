"""A comparison as JSON (the format of benchmark results) and as Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from searchlora.eval.comparison import Comparison, PairedComparison, Slice, SliceComparison, SystemScore, WeightedPair
from searchlora.eval.formatting import figure, markdown_table, markdown_text, number, p_value, to_plain
from searchlora.eval.significance import CORRECTION_NAMES, disagreement_note
from searchlora.eval.unjudged import AS_BEST, CONDENSED


@dataclass(frozen=True)
class Header:
    """Provenance of the figures, supplied by the caller, since eval reads neither the clock nor the machine.

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
    """The content of `benchmarks/results/NAME.json`; an undefined value is None, never NaN.

    `rows` and `comparisons` are always present. The other keys are present if they are not empty: `slices`,
    `slice_comparisons`, `weighted`, `weighted_comparisons`, `unjudged`, `totals`, `costs`, `circular`, `aggregates`
    (measures that are not means), `less_is_better`, `zero_is_best` and `notes`. Figures of a circular system have a key
    `circular` with the reason.
    """
    more = {
        "slices": [
            {"slice": each.slice, "value_of_slice": each.value, **_row(comparison, each.row)}
            for each in comparison.slices
        ],
        "slice_comparisons": [
            {"slice": each.slice, "value_of_slice": each.value, **_compared(comparison, each.pair)}
            for each in comparison.slice_pairs
        ],
        "weighted": [_row(comparison, row) for row in comparison.weighted],
        "weighted_comparisons": [_compared(comparison, pair) for pair in comparison.weighted_pairs],
        "unjudged": [_row(comparison, row) for row in comparison.unjudged],
        "totals": {system: to_plain(totals) for system, totals in comparison.totals.items() if totals},
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
    """Markdown tables of systems, pairs, unjudged documents, traffic, slices and costs, and the notes.

    Examples:
        >>> from searchlora.eval.comparison import compare
        >>> from searchlora.eval.evaluation import Evaluation
        >>> base = Evaluation("MRR", {"MRR": {"q1": 0.5, "q2": 0.5, "q3": 0.5}}, clusters={})
        >>> comparison = compare({"base": base, "copy": base}, baseline="base", resamples=100)
        >>> print(to_markdown(comparison).splitlines()[0])
        | system | MRR | n | invalid |
    """
    parts = [
        _systems(comparison),
        *_pairs(comparison),
        *_unjudged(comparison),
        *_weighted(comparison),
        *_slices(comparison),
        *_costs(comparison),
        "\n".join(f"* {line}" for line in _notes(comparison)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _notes(comparison: Comparison) -> Iterator[str]:
    """Reasons of circular figures, then the notes."""
    for name, reason in comparison.circular.items():
        yield f"**{markdown_text(comparison.label(name))}**: {markdown_text(reason)}"
    yield from map(markdown_text, comparison.notes)


def _systems(comparison: Comparison) -> str:
    head = ["system", *comparison.measures, "n", "invalid"]
    figures = _by_system(comparison.rows)
    lines = []
    for system in comparison.systems:
        cells = [figures.get(system, {}).get(measure) for measure in comparison.measures]
        invalid = f"{len(comparison.invalid.get(system, {}))} of {comparison.answered[system]}"
        lines.append([_name(comparison, system), *map(_figure, cells), _counts(cells), invalid])
    caption = "Mean and 95% interval (bootstrap-t over clusters). Invalid: of all rows that the system answered."
    return _table(head, lines, " ".join([caption, *_measure_notes(comparison)]))


def _measure_notes(comparison: Comparison) -> Iterator[str]:
    """Which measures are aggregates, and of which less is better."""
    if comparison.aggregates:
        yield f"Aggregates of all rows, not means of rows: {', '.join(comparison.aggregates)}."
    if less := [measure for measure in comparison.less_is_better if measure not in comparison.zero_is_best]:
        yield f"Less is better: {', '.join(less)}."
    if comparison.zero_is_best:
        yield f"0 is best, and differences are those of the distance from 0: {', '.join(comparison.zero_is_best)}."


def _pairs(comparison: Comparison) -> Iterator[str]:
    if not comparison.comparisons:
        return
    tests = ["p", "p corrected", "wins/losses/ties", "p (t)", "effect", "detectable"]
    lines = [_pair(comparison, pair) for pair in comparison.comparisons]
    caption = (
        f"p by paired randomisation over clusters, corrected by {_correction(comparison)} over the {len(lines)} rows; "
        "p (t) by the paired t test, not corrected. Effect: Cohen's d_z. Detectable: the smallest true difference that "
        "the t test detects with power 0.8 at level 0.05, for this number of rows and this spread."
    )
    caption = f"{caption} {markdown_text(comparison.disagreements(comparison.comparisons))}".rstrip()
    yield _table(["comparison", "measure", "difference", *tests], lines, caption, words=2)


def _pair(comparison: Comparison, pair: PairedComparison) -> list[str]:
    tests = [p_value(pair.p), p_value(pair.p_corrected), _wins(pair), p_value(pair.p_t)]
    sizes = [number(pair.effect, "+.2f"), number(pair.mde)]
    return [_names(comparison, pair), pair.measure, _difference(pair), *tests, *sizes]


def _unjudged(comparison: Comparison) -> Iterator[str]:
    """The figures of each system under the three assumptions about unjudged documents, and the share judged."""
    if not comparison.unjudged:
        return
    yield "### Unjudged documents"
    figures = _by_system(comparison.unjudged)
    plain = _by_system(comparison.rows)
    depths = list(dict.fromkeys(row.measure for row in comparison.unjudged if row.measure.startswith("Judged@")))
    lines = []
    for measure in comparison.measures:
        for system, by_measure in figures.items():
            if f"{measure} {CONDENSED}" in by_measure and measure in plain[system]:
                cells = [
                    plain[system][measure],
                    by_measure[f"{measure} {CONDENSED}"],
                    by_measure[f"{measure} {AS_BEST}"],
                ]
                lines.append([_name(comparison, system), measure, *map(_figure, cells), _counts(cells)])
    caption = (
        "As worst: unjudged documents count as not relevant, as in all other tables. Condensed: they are removed from "
        "the ranking. As best: the greatest value when the first j of them get the best grade, over all j."
    )
    if lines:
        yield _table(["system", "measure", "as worst", "condensed", "as best", "n"], lines, caption, words=2)
    shares = [
        [_name(comparison, system), *(_figure(by_measure[d]) for d in depths)] for system, by_measure in figures.items()
    ]
    yield _table(["system", *depths], shares, "Share of the first documents that are judged.")


def _weighted(comparison: Comparison) -> Iterator[str]:
    if not comparison.weighted:
        return
    figures = _by_system(comparison.weighted)
    measures = [m for m in comparison.measures if all(m in by_measure for by_measure in figures.values())]
    lines = [
        [
            _name(comparison, system),
            *(_figure(by_measure[m]) for m in measures),
            _counts([by_measure[m] for m in measures]),
        ]
        for system, by_measure in figures.items()
    ]
    yield "### Weighted by traffic"
    yield _table(["system", *measures, "n"], lines, "Mean weighted by traffic, and its 95% interval.")
    if comparison.weighted_pairs:
        pairs = [
            [
                _names(comparison, pair),
                pair.measure,
                _difference(pair),
                p_value(pair.p),
                p_value(pair.p_corrected),
                str(pair.n),
            ]
            for pair in comparison.weighted_pairs
        ]
        caption = (
            "Difference of the weighted means; p by paired randomisation of the weighted sums of clusters, corrected "
            f"by {_correction(comparison)} over the {len(pairs)} rows."
        )
        caption = f"{caption} {markdown_text(comparison.disagreements(comparison.weighted_pairs))}".rstrip()
        yield _table(["comparison", "measure", "difference", "p", "p corrected", "n"], pairs, caption, words=2)


def _slices(comparison: Comparison) -> Iterator[str]:
    """For each slice, the headline (else the first mean) of each system, and the main pairs."""
    headline = comparison.row_measure
    for name in dict.fromkeys(each.slice for each in comparison.slices):
        yield f"### {markdown_text(str(headline))} by {markdown_text(name)}"
        by_measure = [each for each in comparison.slices if (each.slice, each.row.measure) == (name, headline)]
        yield _table([name, *(_name(comparison, s) for s in comparison.systems), "n"], _slice_lines(by_measure))
        pairs = [
            each
            for each in comparison.slice_pairs
            if (each.slice, each.pair.measure) == (name, headline)
            and (each.pair.a, each.pair.b) in comparison.main_pairs
        ]
        if pairs:
            caption = (
                f"p corrected by {_correction(comparison)} over the {len(comparison.slice_pairs)} pairs of all slices "
                "and tested measures."
            )
            caption = f"{caption} {markdown_text(_slice_disagreements(comparison, pairs))}".rstrip()
            head = [name, "comparison", "difference", "p", "p corrected", "wins/losses/ties", "detectable", "n"]
            yield _table(head, [_slice_pair(comparison, each) for each in pairs], caption, words=2)


def _slice_disagreements(comparison: Comparison, pairs: Sequence[SliceComparison]) -> str:
    return disagreement_note(
        (f"{each.value} ({_names(comparison, each.pair)})", each.pair.low, each.pair.high, each.pair.p_corrected)
        for each in pairs
    )


def _slice_lines(slices: Sequence[Slice]) -> list[list[str]]:
    of_value: dict[str, list[SystemScore]] = {}
    for each in slices:
        of_value.setdefault(each.value, []).append(each.row)
    return [[value, *map(_figure, rows), _counts(rows)] for value, rows in of_value.items()]


def _slice_pair(comparison: Comparison, each: SliceComparison) -> list[str]:
    pair = each.pair
    return [
        each.value,
        _names(comparison, pair),
        _difference(pair),
        p_value(pair.p),
        p_value(pair.p_corrected),
        _wins(pair),
        number(pair.mde),
        str(pair.n),
    ]


def _costs(comparison: Comparison) -> Iterator[str]:
    kinds = list(dict.fromkeys(kind for costs in comparison.costs.values() for kind in costs))
    if kinds:
        lines = [
            [_name(comparison, system), *(number(costs.get(kind, math.nan), ".4g") for kind in kinds)]
            for system, costs in comparison.costs.items()
        ]
        yield _table(["system", *kinds], lines)


def _correction(comparison: Comparison) -> str:
    return CORRECTION_NAMES[comparison.correction]


def _by_system(rows: Sequence[SystemScore]) -> dict[str, dict[str, SystemScore]]:
    found: dict[str, dict[str, SystemScore]] = {}
    for row in rows:
        found.setdefault(row.system, {})[row.measure] = row
    return found


def _name(comparison: Comparison, system: str) -> str:
    label = comparison.label(system)
    return f"**{label}**" if system == comparison.candidate else label


def _names(comparison: Comparison, pair: PairedComparison | WeightedPair) -> str:
    return f"{comparison.label(pair.a)} − {comparison.label(pair.b)}"


def _counts(rows: Sequence[SystemScore | None]) -> str:
    """One number if all measures have the same rows, else one for each."""
    known = {row.n for row in rows if row is not None}
    return str(*known) if len(known) == 1 else "/".join("–" if row is None else str(row.n) for row in rows)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]], caption: str = "", *, words: int = 1) -> str:
    table = markdown_table(head, lines, words=words)
    return f"{table}\n\n{caption}" if caption else table


def _wins(pair: PairedComparison) -> str:
    return "–" if pair.wins is None else f"{pair.wins}/{pair.losses}/{pair.ties}"


def _figure(row: SystemScore | None) -> str:
    return "–" if row is None else figure(row.value, row.low, row.high)


def _difference(pair: PairedComparison | WeightedPair) -> str:
    return figure(pair.difference, pair.low, pair.high, "+")


def _row(comparison: Comparison, row: SystemScore) -> dict[str, Any]:
    return {**to_plain(vars(row)), **_marked(comparison, row.system)}


def _compared(comparison: Comparison, pair: PairedComparison | WeightedPair) -> dict[str, Any]:
    return {**to_plain(vars(pair)), **_marked(comparison, pair.a, pair.b)}


def _marked(comparison: Comparison, *systems: str) -> dict[str, str]:
    reasons = [comparison.circular[system] for system in systems if system in comparison.circular]
    return {"circular": "; ".join(dict.fromkeys(reasons))} if reasons else {}
