"""Plots of judges: what a grade means in human grades, and systems under both sets of grades."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from searchlora.eval.calibration import CurvePoint
from searchlora.eval.judge.system_order import SystemOrder
from searchlora.eval.report.drawing import ACCENT, LINE, MUTED, drawing, svg

_SIDE = 3.0


def curve_plot(
    points: Sequence[CurvePoint], title: str, said: str = "the judge said", truth: str = "people said, mean"
) -> Markup:
    """What was so, on average, over what was said, with intervals; on the dashed line both are the same.

    Args:
        said, truth: What the axes are called.
    """
    figure, axes = drawing(_SIDE * 0.85, _SIDE)
    ends = [
        min(min(each.predicted, each.observed) for each in points),
        max(max(each.predicted, each.observed) for each in points),
    ]
    axes.plot(ends, ends, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    for each in points:
        axes.plot([each.predicted, each.predicted], [each.low, each.high], color=ACCENT, linewidth=2.2, alpha=0.6)
    x, y = [each.predicted for each in points], [each.observed for each in points]
    axes.plot(x, y, "o-", color=ACCENT, markersize=4.5, linewidth=1.2)
    axes.set_xlabel(said, color=MUTED, fontsize=8)
    axes.set_ylabel(truth, color=MUTED, fontsize=8)
    axes.grid(color=LINE, linewidth=0.6)
    return svg(figure, f"Calibration curve, {title}; the table beside it has the figures")


def order_plot(order: SystemOrder, judge: str) -> Markup:
    """Each system's mean under human grades and under the judge's; the best systems stand out."""
    figure, axes = drawing(_SIDE * 0.85, _SIDE)
    for part, colour in ((slice(order.top, None), MUTED), (slice(0, order.top), ACCENT)):
        axes.plot(order.human[part], order.judge[part], "o", color=colour, markersize=4.5)
    axes.set_xlabel(f"{order.measure}, people", color=MUTED, fontsize=8)
    axes.set_ylabel(f"{order.measure}, judge", color=MUTED, fontsize=8)
    axes.grid(color=LINE, linewidth=0.6)
    return svg(figure, f"{order.measure} of {len(order.systems)} systems under the grades of people and of {judge}")
