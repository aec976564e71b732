"""Plots as SVG that stands in the page: its text is text and its colours are the page's, light or dark."""

from __future__ import annotations

import io
import re
from typing import Any

from searchlora.eval.compare import Comparison

#: What matplotlib is told to paint with -> what the page paints with.
_INK, _MUTED, _LINE, _ACCENT, _GOOD, _BAD = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_COLOURS = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _LINE: "var(--line)",
    _ACCENT: "var(--accent)",
    _GOOD: "var(--good)",
    _BAD: "var(--bad)",
}
#: Narrow enough that its text is still readable on a phone; inches of 72 units.
_WIDTH = 3.9


def interval_plot(comparison: Comparison) -> str:
    """The headline of each system with its interval, one below the other; the system under test stands out."""
    rows = [comparison.row(system, comparison.measures[0]) for system in comparison.systems]
    figure, axes = _figure(0.46 * len(rows) + 0.45)
    for place, row in enumerate(rows):
        colour = _ACCENT if row.system == comparison.candidate else _MUTED
        axes.plot([row.low, row.high], [-place, -place], color=colour, linewidth=2.5, solid_capstyle="round")
        axes.plot([row.value], [-place], "o", color=colour, markersize=6)
        name = comparison.shown(row.system)
        name = name if len(name) <= 40 else name[:39] + "…"
        axes.text(0, -place + 0.28, name, color=_INK, fontsize=9, transform=axes.get_yaxis_transform())
        axes.text(1, -place + 0.28, f"{row.value:.3f}", color=_INK, fontsize=9, ha="right",
                  transform=axes.get_yaxis_transform())  # fmt: skip
    axes.set_ylim(-len(rows) + 0.55, 0.75)
    axes.set_yticks([])
    axes.grid(axis="x", color=_LINE, linewidth=0.6)
    return _svg(figure, f"{rows[0].measure} of {len(rows)} systems with 95% intervals")


def difference_plot(comparison: Comparison, a: str, b: str) -> str:
    """The difference a minus b of every row in the headline measure, greatest first: wins above, losses below 0."""
    import numpy as np

    measure = comparison.measures[0]
    values = comparison.values[measure]
    ours, theirs = values[a], values[b]
    differences = np.sort([ours[row] - theirs[row] for row in ours])[::-1]
    edges = np.linspace(0, 100, len(differences) + 1)
    figure, axes = _figure(1.7)
    for keep, colour in ((differences > 0, _GOOD), (differences < 0, _BAD)):
        axes.stairs(np.where(keep, differences, 0), edges, fill=True, color=colour)
    axes.axhline(0, color=_MUTED, linewidth=0.8)
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of rows, ordered by difference", color=_MUTED, fontsize=8)
    axes.grid(axis="y", color=_LINE, linewidth=0.6)
    return _svg(figure, f"Difference in {measure} for each row, {comparison.shown(a)} minus {comparison.shown(b)}")


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    axes.set_axisbelow(True)
    axes.locator_params(nbins=5)
    axes.tick_params(colors=_MUTED, labelsize=8, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure, axes


def _svg(figure: Any, label: str) -> str:
    import matplotlib
    from markupsafe import escape
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    out = io.StringIO()
    # A name with two dollar signs is not mathematics; the salt keeps the ids of two plots in one page apart.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "text.parse_math": False}):
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # named figure_1 and so on in every plot
    svg = re.sub(r"font: (\d+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    for colour, variable in _COLOURS.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
