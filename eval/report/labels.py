"""The sections of confusion matrices and calibration curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from searchlora.eval.calibration import Curve
from searchlora.eval.evaluation import Confusion
from searchlora.eval.report.grids import confusion
from searchlora.eval.report.judge_plots import curve_plot
from searchlora.eval.report.page import Section

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
    return Section("confusions", "Confusions", "confusions", content, lead)


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
        "calibration", "Calibration", "curves", {"curves": drawn, "names": names},
        "How often it was so where that probability was given; on the dashed line both are the same.",
    )  # fmt: skip
