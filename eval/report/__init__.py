"""HTML reports: comparisons of systems, each as one file that opens offline."""

from __future__ import annotations

from searchlora.eval.calibration import Curve
from searchlora.eval.evaluation import Confusion
from searchlora.eval.report.ablation import SlotLine, interactions_section, slots_section
from searchlora.eval.report.comparison import Chapter, write_overview, write_report
from searchlora.eval.report.examples import SHOWN_DOCUMENTS, RetrievedDocument, RowTexts, SystemOutput, extremes

__all__ = [
    "SHOWN_DOCUMENTS",
    "Chapter",
    "Confusion",
    "Curve",
    "RetrievedDocument",
    "RowTexts",
    "SlotLine",
    "SystemOutput",
    "extremes",
    "interactions_section",
    "slots_section",
    "write_overview",
    "write_report",
]
