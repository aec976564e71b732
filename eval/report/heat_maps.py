"""Tables with tinted cells (slices, confusion matrices), and the sections of labels: confusions and calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from searchlora.eval.calibration import Curve
from searchlora.eval.comparison import Comparison, Pair, Row
from searchlora.eval.evaluation import Confusion
from searchlora.eval.formatting import interval, p_value
from searchlora.eval.report.page import Section
from searchlora.eval.report.plots import curve_plot
from searchlora.eval.significance import LEVEL

#: More columns than this are hard to read on any screen.
_COLUMNS = 6


@dataclass(frozen=True)
class Head:
    """The heading of a column or row, and a small line below it."""

    text: str
    small: str = ""


@dataclass(frozen=True)
class Cell:
    """What stands in a cell.

    Attributes:
        small: Lines below.
        tint: How strong it is coloured, 0 to 1.
        colour: `accent`, `good` or `bad`.
        mark: A sign beside the text, explained below the table.
    """

    text: str
    small: tuple[str, ...] = ()
    tint: float = 0.0
    colour: str = "accent"
    mark: str = ""


@dataclass(frozen=True)
class Grid:
    """Cells by row and column; `corner` names what stands in the first column."""

    corner: str
    columns: tuple[Head, ...]
    rows: tuple[tuple[Head, tuple[Cell, ...]], ...]


def readable(grid: Grid, turned_corner: str) -> Grid:
    """The grid, turned where it has many columns and fewer rows."""
    if len(grid.columns) <= _COLUMNS or len(grid.columns) <= len(grid.rows):
        return grid
    heads, cells = zip(*grid.rows, strict=True)
    return Grid(turned_corner, tuple(heads), tuple(zip(grid.columns, zip(*cells, strict=True), strict=True)))


def confusion(rows: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]], corner: str) -> Grid:
    """Counts, each tinted by its share of its row."""
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
        "slices", "Slices", "comparison.slices", content,
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


#: A matrix of more labels than this is not read; the pairs most often confused are shown, so many of them.
READABLE, PAIRS = 12, 12


def confusions_section(confusions: Mapping[str, Confusion]) -> Section | None:
    """The matrices, by title: as heat maps, or of many labels the pairs most often confused. None: there are none."""
    if not confusions:
        return None
    small = {title: each for title, each in confusions.items() if len(each.rows) <= READABLE}
    content = {
        "grids": [
            (title, confusion(each.rows, each.columns, each.counts, "true \\ said")) for title, each in small.items()
        ],
        "pairs": [(title, _pairs(each)) for title, each in confusions.items() if title not in small],
        "readable": READABLE,
        "each": [(title, rows) for title, each in confusions.items() if (rows := _each(each))],
    }
    lead = "Rows are what is true; the stronger the tint, the greater the share of the row." if small else ""
    return Section("confusions", "Confusions", "comparison.confusions", content, lead)


def _pairs(matrix: Confusion) -> dict[str, Any]:
    """The cells in which another label was said than the true one, greatest first."""
    wrong = [
        (true, said, count, sum(counts))
        for true, counts in zip(matrix.rows, matrix.counts, strict=True)
        for said, count in zip(matrix.columns, counts, strict=True)
        if count and said != true
    ]
    wrong.sort(key=lambda pair: -pair[2])
    return {
        "pairs": wrong[:PAIRS],
        "kinds": len(wrong),
        "wrong": sum(count for _, _, count, _ in wrong),
        "total": sum(map(sum, matrix.counts)),
        "labels": len(matrix.rows),
    }


def _each(matrix: Confusion) -> list[tuple[str, int, float, float, float]]:
    """Of each label that stands in gold: how often, and its precision, recall and F1; nothing said counts as 0."""
    found = []
    for row, label in enumerate(matrix.rows):
        true = sum(matrix.counts[row])
        if not true or label not in matrix.columns:
            continue
        column = matrix.columns.index(label)
        hits, said = matrix.counts[row][column], sum(counts[column] for counts in matrix.counts)
        found.append((label, true, hits / said if said else 0.0, hits / true, 2 * hits / (said + true)))
    return found


def curves_section(curves: Mapping[str, Curve]) -> Section | None:
    """Each curve with its figures, by title; None where there are none."""
    drawn = [
        (title, curve.points, curve_plot(curve.points, title, "probability given", "how often it was so"))
        for title, curve in curves.items()
        if curve.points
    ]
    if not drawn:
        return None
    names = ["probability", "how often so", "n", "groups"]
    return Section(
        "calibration", "Calibration", "comparison.curves", {"curves": drawn, "names": names},
        "How often it was so where that probability was given; on the dashed line both are the same.",
    )  # fmt: skip
