"""SVG plots of the report, drawn by matplotlib; text stays text and colours follow the page, light or dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.util import find_spec
from typing import Any, ParamSpec

import numpy as np
from markupsafe import Markup, escape

from searchlora.eval.calibration import CurvePoint
from searchlora.eval.comparison import Comparison
from searchlora.eval.formatting import printable

# Placeholder colours for matplotlib -> colour variables of the page.
INK, MUTED, LINE, ACCENT, GOOD, BAD = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    ACCENT: "var(--accent)",
    GOOD: "var(--good)",
    BAD: "var(--bad)",
}
#: Width in inches of 72 units: narrow enough for a phone.
WIDTH = 3.9

#: Greatest length of a name in a plot, in characters.
_NAME = 40


#: Shown in place of a plot where matplotlib is not installed.
NO_PLOT = Markup("<p class='lead'>This plot needs matplotlib: pip install 'searchlora[report]'.</p>")

_Arguments = ParamSpec("_Arguments")


def _needs_matplotlib(plot: Callable[_Arguments, Markup]) -> Callable[_Arguments, Markup]:
    """The core install has no matplotlib; a page there has every table, and says how to get the plots."""

    @wraps(plot)
    def drawn(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Markup:
        return NO_PLOT if find_spec("matplotlib") is None else plot(*args, **kwargs)

    return drawn


def drawing(height: float, width: float = WIDTH) -> tuple[Any, Any]:
    """An empty figure of this size in inches, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    axes.set_axisbelow(True)
    axes.locator_params(nbins=5)
    axes.tick_params(colors=MUTED, labelsize=8, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure, axes


def svg(figure: Any, label: str) -> Markup:
    """The figure as an SVG element that fills the available width.

    Args:
        label: What it shows, for those who cannot see it; unlike that of every other plot of the page.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name with dollar signs is not mathematics
        text.set_text(printable(text.get_text()))
    out = io.StringIO()
    # The salt keeps the ids of two plots in one page apart.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": printable(label)}):
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})
    drawn = out.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"<style[^>]*>.*?</style>", "", drawn, flags=re.DOTALL)  # of every element of the page
    drawn = re.sub(r"<!--.*?-->", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)  # named figure_1 and so on in every plot
    drawn = re.sub(r"font: (\d+)px [^;\"]*", r"font-size: \1px", drawn)
    # HTML knows what an svg is, and needs no address to say so.
    drawn = (
        re.sub(r' (xmlns(:\w+)?|version|height|width)="[^"]*"', "", drawn[: (end := drawn.index(">"))]) + drawn[end:]
    )
    drawn = drawn.replace("xlink:href", "href")
    # Coordinates need no more than two decimals; text between tags is unchanged.
    drawn = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(?<=\d\.\d\d)\d+", "", tag[0]), drawn)
    drawn = re.sub(r"\s*\n\s*", "\n", drawn)
    for colour, variable in _COLOURS.items():
        drawn = drawn.replace(colour, variable)
    return Markup(drawn.strip().replace("<svg", f'<svg role="img" aria-label="{escape(printable(label))}"', 1))


def shortened(name: str) -> str:
    """A name with its middle left out if it is too long; names differ at their ends."""
    if len(name) <= _NAME:
        return name
    return f"{name[: _NAME - 20]}…{name[-19:]}"


#: Greatest number of steps in a plot of differences; a longer list is drawn by its quantiles.
_STEPS = 240


@_needs_matplotlib
def interval_plot(comparison: Comparison, measure: str) -> Markup:
    """A measure of each system with its interval, one below the other; the system under test is highlighted."""
    rows = [row for row in comparison.rows if row.measure == measure and not math.isnan(row.value)]
    figure, axes = drawing(0.46 * len(rows) + 0.45)
    for index, row in enumerate(rows):
        colour = ACCENT if row.system == (comparison.candidate or comparison.baseline) else MUTED
        axes.plot([row.low, row.high], [-index, -index], color=colour, linewidth=2.5, solid_capstyle="round")
        axes.plot([row.value], [-index], "o", color=colour, markersize=6)
        for side, text in ((0, shortened(comparison.label(row.system))), (1, f"{row.value:.3f}")):
            axes.text(side, -index + 0.28, text, color=INK, fontsize=9, ha="right" if side else "left",
                      transform=axes.get_yaxis_transform())  # fmt: skip
    axes.set_ylim(-len(rows) + 0.55, 0.75)
    axes.set_yticks([])
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    return svg(figure, f"{measure} of {len(rows)} systems with 95% intervals; the table of systems has the figures")


@_needs_matplotlib
def difference_plot(comparison: Comparison, a: str, b: str) -> Markup:
    """The difference of every row in `row_measure`, greatest first: wins of a above 0, losses below."""
    differences = np.sort(list(comparison.gains(a, b).values()))[::-1]
    steps = min(len(differences), _STEPS)
    # The middle of each step, or every row if there are no more rows than steps.
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


_SIDE = 3.0


@_needs_matplotlib
def curve_plot(points: Sequence[CurvePoint], title: str, predicted: str, observed: str) -> Markup:
    """Mean observed value by predicted value, with intervals; on the dashed line they are equal.

    Args:
        predicted, observed: Labels of the axes.
    """
    figure, axes = drawing(_SIDE * 0.85, _SIDE)
    ends = [
        min(min(point.predicted, point.observed) for point in points),
        max(max(point.predicted, point.observed) for point in points),
    ]
    axes.plot(ends, ends, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    for point in points:
        axes.plot([point.predicted, point.predicted], [point.low, point.high], color=ACCENT, linewidth=2.2, alpha=0.6)
    x, y = [point.predicted for point in points], [point.observed for point in points]
    axes.plot(x, y, "o-", color=ACCENT, markersize=4.5, linewidth=1.2)
    axes.set_xlabel(predicted, color=MUTED, fontsize=8)
    axes.set_ylabel(observed, color=MUTED, fontsize=8)
    axes.grid(color=LINE, linewidth=0.6)
    return svg(figure, f"Calibration curve, {title}; the table beside it has the figures")
