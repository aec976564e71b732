"""A comparison, or judges against people, as one HTML file that opens offline."""

from __future__ import annotations

from searchlora.eval.calibration import Curve
from searchlora.eval.evaluation import Confusion
from searchlora.eval.report.details import SHOWN_DOCUMENTS, Answer, Detail, Found, extremes
from searchlora.eval.report.judge_card import write_judge_card
from searchlora.eval.report.write import write_report

__all__ = [
    "SHOWN_DOCUMENTS",
    "Answer",
    "Confusion",
    "Curve",
    "Detail",
    "Found",
    "extremes",
    "write_judge_card",
    "write_report",
]
