"""Confusion matrices and calibration curves as a report is given them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from searchlora.eval.judge.calibration_curve import CurvePoint
from searchlora.eval.report.grids import confusion
from searchlora.eval.report.judge_plots import curve_plot
from searchlora.eval.report.page import Section


@dataclass(frozen=True)
class Confusion:
    """How often what was true was called what.

    Args:
        title: Of which system, on what.
        rows: What is true.
        columns: What was said, `invalid` among it.
        counts: One row of counts for each of `rows`.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Curve:
    """The points of a calibration curve (`judge.calibration_curve`), rising."""

    title: str
    points: tuple[CurvePoint, ...]


def confusions_section(confusions: Sequence[Confusion]) -> Section | None:
    """The matrices as heat maps; None where there are none."""
    if not confusions:
        return None
    grids = [(each.title, confusion(each.rows, each.columns, each.counts, "true \\ said")) for each in confusions]
    return Section(
        "confusions", "Confusion matrices", "confusions", {"grids": grids},
        "Rows are what is true; the stronger the tint, the greater the share of the row.",
    )  # fmt: skip


def curves_section(curves: Sequence[Curve]) -> Section | None:
    """Each curve with its figures; None where there are none."""
    drawn = [(curve.title, curve.points, curve_plot(curve.points, curve.title)) for curve in curves if curve.points]
    if not drawn:
        return None
    return Section(
        "calibration", "Calibration", "curves", {"curves": drawn},
        "What people said, on average, where that was said; on the dashed line both are the same.",
    )  # fmt: skip
