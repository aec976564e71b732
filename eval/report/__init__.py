"""HTML reports: comparisons of systems, each as one file that opens offline."""

from __future__ import annotations

from searchlora.eval.calibration import Curve
from searchlora.eval.evaluation import Confusion
from searchlora.eval.report.ablation import SlotLine, cost_names, interactions_section, slots_section
from searchlora.eval.report.comparison import Chapter, Stored, write_overview, write_report
from searchlora.eval.report.examples import SHOWN_DOCUMENTS, Answer, Detail, Found, extremes

__all__ = [
    "SHOWN_DOCUMENTS",
    "Answer",
    "Chapter",
    "Confusion",
    "Curve",
    "Detail",
    "Found",
    "SlotLine",
    "Stored",
    "cost_names",
    "extremes",
    "interactions_section",
    "slots_section",
    "write_overview",
    "write_report",
]
