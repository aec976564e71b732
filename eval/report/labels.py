"""The sections of confusion matrices and calibration curves."""

from __future__ import annotations

from collections.abc import Mapping

from searchlora.eval.labels import Confusion, Curve
from searchlora.eval.report.grids import confusion
from searchlora.eval.report.judge_plots import curve_plot
from searchlora.eval.report.page import Section


def confusions_section(confusions: Mapping[str, Confusion]) -> Section | None:
    """The matrices as heat maps, by title; None where there are none."""
    if not confusions:
        return None
    grids = [
        (title, confusion(each.rows, each.columns, each.counts, "true \\ said")) for title, each in confusions.items()
    ]
    return Section(
        "confusions", "Confusion matrices", "confusions", {"grids": grids},
        "Rows are what is true; the stronger the tint, the greater the share of the row.",
    )  # fmt: skip


def curves_section(curves: Mapping[str, Curve]) -> Section | None:
    """Each curve with its figures, by title; None where there are none."""
    drawn = [(title, curve.points, curve_plot(curve.points, title)) for title, curve in curves.items() if curve.points]
    if not drawn:
        return None
    return Section(
        "calibration", "Calibration", "curves", {"curves": drawn},
        "What people said, on average, where that was said; on the dashed line both are the same.",
    )  # fmt: skip
