"""Matplotlib figures as SVG that stands in the page: its text is text and its colours are the page's, light or dark."""

from __future__ import annotations

import io
import re
from typing import Any

from markupsafe import Markup, escape

# What matplotlib is told to paint with -> what the page paints with.
INK, MUTED, LINE, ACCENT, GOOD, BAD = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    ACCENT: "var(--accent)",
    GOOD: "var(--good)",
    BAD: "var(--bad)",
}
#: Narrow enough that its text is still readable on a phone; inches of 72 units.
WIDTH = 3.9

#: Characters of a name that a plot has room for.
_NAME = 40


def drawing(height: float, width: float = WIDTH) -> tuple[Any, Any]:
    """An empty figure of so many inches and its axes."""
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
    """The figure as an SVG element that fills the width there is.

    Args:
        label: What it shows, for those who cannot see it; unlike that of every other plot of the page.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    out = io.StringIO()
    # A name with two dollar signs is not mathematics; the salt keeps the ids of two plots in one page apart.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "text.parse_math": False}):
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
    # A hundredth of a unit is not seen; what stands between the tags is text and stays.
    drawn = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(?<=\d\.\d\d)\d+", "", tag[0]), drawn)
    drawn = re.sub(r"\s*\n\s*", "\n", drawn)
    for colour, variable in _COLOURS.items():
        drawn = drawn.replace(colour, variable)
    return Markup(drawn.strip().replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))


def shortened(name: str) -> str:
    """A name with its middle left out where a plot has no room for it; names differ at their ends."""
    if len(name) <= _NAME:
        return name
    return f"{name[: _NAME - 20]}…{name[-19:]}"
