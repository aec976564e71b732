"""Tables with tinted cells (slices, confusion matrices), and the sections of labels: confusions and calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from searchlora.eval.calibration import Curve
from searchlora.eval.comparison import Comparison, PairedComparison, SystemScore
from searchlora.eval.evaluation import Confusion
from searchlora.eval.formatting import interval, p_value
from searchlora.eval.report.page import Section
from searchlora.eval.report.plots import curve_plot
from searchlora.eval.significance import LEVEL

#: Greatest number of columns that stay readable.
_COLUMNS = 6


@dataclass(frozen=True)
class Head:
    """Heading of a column or row, with an optional small line below it."""

    text: str
    small: str = ""


@dataclass(frozen=True)
class Cell:
    """Content of a cell.

    Attributes:
        small: Lines below.
        tint: Strength of the colour, 0 to 1.
        colour: `accent`, `good` or `bad`.
        mark: A symbol beside the text, explained below the table.
    """

    text: str
    small: tuple[str, ...] = ()
    tint: float = 0.0
    colour: str = "accent"
    mark: str = ""


@dataclass(frozen=True)
class Grid:
    """Cells by row and column; `corner` is the heading of the first column."""

    corner: str
    columns: tuple[Head, ...]
    rows: tuple[tuple[Head, tuple[Cell, ...]], ...]


def readable(grid: Grid, transposed_corner: str) -> Grid:
    """The grid, transposed if it has many columns and fewer rows."""
    if len(grid.columns) <= _COLUMNS or len(grid.columns) <= len(grid.rows):
        return grid
    heads, cells = zip(*grid.rows, strict=True)
    return Grid(transposed_corner, tuple(heads), tuple(zip(grid.columns, zip(*cells, strict=True), strict=True)))


def confusion(rows: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]], corner: str) -> Grid:
    """A grid of counts, tinted by their share of the row."""
    return Grid(
        corner,
        tuple(map(Head, columns)),
        tuple(
            (Head(name, f"n = {sum(row)}"), tuple(_count(count, sum(row)) for count in row))
            for name, row in zip(rows, counts, strict=True)
        ),
    )


def _count(count: int, total: int) -> Cell:
    return Cell(str(count), (f"{count / total:.0%}",), count / total) if count else Cell("0")


#: Marks of a difference whose interval excludes 0, and of one that is significant after correction over all slices.
APART, SHOWN = "○", "●"


def slices_section(comparison: Comparison) -> Section | None:
    """A heat map of means and one of differences for each slice, in the headline, else the first mean."""
    headline = comparison.row_measure
    means: dict[str, dict[str, list[SystemScore]]] = {}
    for each in comparison.slices:
        if each.row.measure == headline:
            means.setdefault(each.slice, {}).setdefault(each.value, []).append(each.row)
    if not means:
        return None
    pairs: dict[str, dict[str, list[PairedComparison]]] = {}
    for difference in comparison.slice_pairs:
        pair = difference.pair
        if pair.measure == headline and (pair.a, pair.b) in comparison.main_pairs:
            pairs.setdefault(difference.slice, {}).setdefault(difference.value, []).append(pair)
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
        "slices", "Slices", "comparison.slices", content,
        f"Mean {headline} with its 95% interval; a stronger tint is a better value. Below it, the paired differences.",
    )  # fmt: skip


def _against(comparison: Comparison) -> str:
    """The order of subtraction, printed above the differences."""
    if comparison.candidate is not None:
        return f"{comparison.label(comparison.candidate)} minus each other system"
    return f"each other system minus {comparison.label(comparison.baseline)}" if comparison.baseline else ""


def _means(comparison: Comparison, name: str, values: dict[str, list[SystemScore]]) -> Grid:
    means = [row.value for rows in values.values() for row in rows]
    less = comparison.row_measure in comparison.less_is_better
    value_range = (max(means), min(means)) if less else (min(means), max(means))
    columns = tuple(Head(value, f"n = {rows[0].n}") for value, rows in values.items())
    by_system = zip(*values.values(), strict=True)
    rows = tuple(
        (Head(comparison.label(system)), tuple(_mean(row, value_range) for row in of_system))
        for system, of_system in zip(comparison.systems, by_system, strict=True)
    )
    return readable(Grid("system", columns, rows), name)


def _mean(row: SystemScore, value_range: tuple[float, float]) -> Cell:
    """A cell tinted from the worst mean of the slice to the best."""
    worst, best = value_range
    tint = (row.value - worst) / (best - worst) if best != worst else 0.5
    return Cell(f"{row.value:.3f}", (interval(row.low, row.high),), tint)


def _differences(comparison: Comparison, name: str, values: dict[str, list[PairedComparison]]) -> Grid | None:
    if not values:
        return None
    largest = max(abs(pair.difference) for pairs in values.values() for pair in pairs) or 1.0
    columns = tuple(Head(value, f"n = {pairs[0].n}") for value, pairs in values.items())
    by_pair = zip(*values.values(), strict=True)
    rows = tuple(
        (
            Head(comparison.label(b if a == comparison.candidate else a)),
            tuple(_difference(comparison, each, largest) for each in pairs),
        )
        for (a, b), pairs in zip(comparison.main_pairs, by_pair, strict=True)
    )
    return readable(Grid("system", columns, rows), name)


def _difference(comparison: Comparison, pair: PairedComparison, largest: float) -> Cell:
    significant = not math.isnan(pair.low) and (pair.low > 0 or pair.high < 0)
    mark = SHOWN if pair.p_corrected <= LEVEL else APART if significant else ""
    return Cell(
        f"{pair.difference:+.3f}",
        (interval(pair.low, pair.high, "+"), f"p {p_value(pair.p_corrected)}"),
        abs(pair.difference) / largest,
        "good" if comparison.gain(pair.measure, pair.difference) > 0 else "bad",
        mark,
    )


#: Greatest number of labels shown as a matrix, and the number of confused pairs shown instead.
READABLE, PAIRS = 12, 12


def confusions_section(confusions: Mapping[str, Confusion]) -> Section | None:
    """Confusion matrices by title: as heat maps, or with many labels as the most frequently confused pairs."""
    if not confusions:
        return None
    small = {title: each for title, each in confusions.items() if len(each.rows) <= READABLE}
    content = {
        "grids": [
            (title, confusion(each.rows, each.columns, each.counts, "gold \\ predicted"))
            for title, each in small.items()
        ],
        "pairs": [(title, _pairs(each)) for title, each in confusions.items() if title not in small],
        "readable": READABLE,
        "per_label": [(title, rows) for title, matrix in confusions.items() if (rows := _per_label(matrix))],
    }
    lead = "Rows are gold labels; a stronger tint is a greater share of the row." if small else ""
    return Section("confusions", "Confusions", "comparison.confusions", content, lead)


def _pairs(matrix: Confusion) -> dict[str, Any]:
    """The cells off the diagonal, by falling count."""
    wrong = [
        (true, predicted, count, sum(counts))
        for true, counts in zip(matrix.rows, matrix.counts, strict=True)
        for predicted, count in zip(matrix.columns, counts, strict=True)
        if count and predicted != true
    ]
    wrong.sort(key=lambda pair: -pair[2])
    return {
        "pairs": wrong[:PAIRS],
        "kinds": len(wrong),
        "wrong": sum(count for _, _, count, _ in wrong),
        "total": sum(map(sum, matrix.counts)),
        "labels": len(matrix.rows),
    }


def _per_label(matrix: Confusion) -> list[tuple[str, int, float, float, float]]:
    """Each label that occurs in gold, with its count, precision, recall and F1 (0 if it is never predicted)."""
    rows = []
    for row, label in enumerate(matrix.rows):
        true = sum(matrix.counts[row])
        if not true or label not in matrix.columns:
            continue
        column = matrix.columns.index(label)
        hits, predicted = matrix.counts[row][column], sum(counts[column] for counts in matrix.counts)
        rows.append((label, true, hits / predicted if predicted else 0.0, hits / true, 2 * hits / (predicted + true)))
    return rows


def curves_section(curves: Mapping[str, Curve]) -> Section | None:
    """Calibration curves with their figures, by title."""
    plots = [
        (title, curve.points, curve_plot(curve.points, title, "predicted probability", "observed share"))
        for title, curve in curves.items()
        if curve.points
    ]
    if not plots:
        return None
    names = ["predicted", "observed", "n", "groups"]
    return Section(
        "calibration", "Calibration", "comparison.curves", {"curves": plots, "names": names},
        "Observed share by predicted probability; on the dashed line they are equal.",
    )  # fmt: skip
