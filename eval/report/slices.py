"""Slices as heat maps: the mean of each system, and beside it the difference of each pair that is looked at first."""

from __future__ import annotations

import math

from searchlora.eval.comparison import Comparison, Pair, Row
from searchlora.eval.formatting import interval, p_value
from searchlora.eval.report.grids import Cell, Grid, Head, readable
from searchlora.eval.report.page import Section
from searchlora.eval.report.words import LEVEL

#: A difference whose own interval excludes 0, and one that is also shown after correction over all slices.
APART, SHOWN = "○", "●"


def slices_section(comparison: Comparison) -> Section | None:
    """A heat map of means and one of differences for each slice, in the headline, else the first mean."""
    headline = comparison.row_measure
    means: dict[str, dict[str, list[Row]]] = {}
    for each in comparison.slices:
        if each.row.measure == headline:
            means.setdefault(each.slice, {}).setdefault(each.value, []).append(each.row)
    if not means:
        return None
    pairs: dict[str, dict[str, list[Pair]]] = {}
    for found in comparison.slice_pairs:
        if found.pair.measure == headline and (found.pair.a, found.pair.b) in comparison.main_pairs:
            pairs.setdefault(found.slice, {}).setdefault(found.value, []).append(found.pair)
    slices = [
        (name, _means(comparison, name, values), _differences(comparison, name, pairs.get(name, {})))
        for name, values in means.items()
    ]
    content = {
        "slices": slices,
        "measure": headline,
        "against": _against(comparison),
        "tests": len(comparison.slice_pairs),
        "apart": APART,
        "shown": SHOWN,
    }
    return Section(
        "slices", "Slices", "slices", content,
        f"Mean {headline} with its 95% interval; the stronger the tint, the better. Below it, the paired differences.",
    )  # fmt: skip


def _against(comparison: Comparison) -> str:
    """What the differences are of, for the line above them."""
    if comparison.candidate is not None:
        return f"{comparison.label(comparison.candidate)} minus each other system"
    return f"each other system minus {comparison.label(comparison.baseline)}" if comparison.baseline else ""


def _means(comparison: Comparison, name: str, values: dict[str, list[Row]]) -> Grid:
    found = [row.value for rows in values.values() for row in rows]
    less = comparison.row_measure in comparison.less_is_better
    ends = (max(found), min(found)) if less else (min(found), max(found))
    columns = tuple(Head(value, f"n = {rows[0].n}") for value, rows in values.items())
    by_system = zip(*values.values(), strict=True)
    rows = tuple(
        (Head(comparison.label(system)), tuple(_mean(row, ends) for row in of_system))
        for system, of_system in zip(comparison.systems, by_system, strict=True)
    )
    return readable(Grid("system", columns, rows), name)


def _mean(row: Row, ends: tuple[float, float]) -> Cell:
    """Tinted from the worst mean of the slice to its best."""
    worst, best = ends
    tint = (row.value - worst) / (best - worst) if best != worst else 0.5
    return Cell(f"{row.value:.3f}", (interval(row.low, row.high),), tint)


def _differences(comparison: Comparison, name: str, values: dict[str, list[Pair]]) -> Grid | None:
    if not values:
        return None
    most = max(abs(pair.difference) for pairs in values.values() for pair in pairs) or 1.0
    columns = tuple(Head(value, f"n = {pairs[0].n}") for value, pairs in values.items())
    by_pair = zip(*values.values(), strict=True)
    rows = tuple(
        (
            Head(comparison.label(b if a == comparison.candidate else a)),
            tuple(_difference(comparison, each, most) for each in pairs),
        )
        for (a, b), pairs in zip(comparison.main_pairs, by_pair, strict=True)
    )
    return readable(Grid("system", columns, rows), name)


def _difference(comparison: Comparison, pair: Pair, most: float) -> Cell:
    apart = not math.isnan(pair.low) and (pair.low > 0 or pair.high < 0)
    mark = SHOWN if pair.p_corrected <= LEVEL else APART if apart else ""
    return Cell(
        f"{pair.difference:+.3f}",
        (interval(pair.low, pair.high, "+"), f"p {p_value(pair.p_corrected)}"),
        abs(pair.difference) / most,
        "good" if comparison.gain(pair.measure, pair.difference) > 0 else "bad",
        mark,
    )
