"""The plots of the report: means with intervals, and differences row by row."""

from __future__ import annotations

import math

import numpy as np
from markupsafe import Markup

from searchlora.eval.comparison import Comparison
from searchlora.eval.report.drawing import ACCENT, BAD, GOOD, INK, LINE, MUTED, drawing, shortened, svg

#: A longer list of differences is drawn by so many of its quantiles: more steps than the plot is wide are not seen.
_STEPS = 240


def interval_plot(comparison: Comparison, measure: str) -> Markup:
    """A measure of each system that has it, with its interval, one below the other; the one under test stands out."""
    rows = [row for row in comparison.rows if row.measure == measure and not math.isnan(row.value)]
    figure, axes = drawing(0.46 * len(rows) + 0.45)
    for place, row in enumerate(rows):
        colour = ACCENT if row.system == (comparison.candidate or comparison.baseline) else MUTED
        axes.plot([row.low, row.high], [-place, -place], color=colour, linewidth=2.5, solid_capstyle="round")
        axes.plot([row.value], [-place], "o", color=colour, markersize=6)
        for side, text in ((0, shortened(comparison.label(row.system))), (1, f"{row.value:.3f}")):
            axes.text(side, -place + 0.28, text, color=INK, fontsize=9, ha="right" if side else "left",
                      transform=axes.get_yaxis_transform())  # fmt: skip
    axes.set_ylim(-len(rows) + 0.55, 0.75)
    axes.set_yticks([])
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    return svg(figure, f"{measure} of {len(rows)} systems with 95% intervals; the table of systems has the figures")


def difference_plot(comparison: Comparison, a: str, b: str) -> Markup:
    """The difference of every row in the measure `by_row`, greatest first: wins of a above 0, losses below."""
    differences = np.sort(list(comparison.gains(a, b).values()))[::-1]
    steps = min(len(differences), _STEPS)
    # The middle of each step; every row where there are no more rows than steps.
    drawn = differences[((np.arange(steps) + 0.5) * len(differences) / steps).astype(int)]
    edges = np.linspace(0, 100, steps + 1)
    figure, axes = drawing(1.7)
    for keep, colour in ((drawn > 0, GOOD), (drawn < 0, BAD)):
        places = np.flatnonzero(keep)
        if len(places):  # those of one sign stand together
            axes.stairs(drawn[places], edges[places[0] : places[-1] + 2], baseline=0, fill=True, color=colour)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of rows, ordered by difference", color=MUTED, fontsize=8)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    return svg(
        figure,
        f"Difference in {comparison.row_measure} for each row, {comparison.label(a)} minus {comparison.label(b)}",
    )
