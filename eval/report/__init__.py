"""A comparison as one HTML file that opens offline."""

from __future__ import annotations

from searchlora.eval.report.details import Answer, Detail, Found, extremes
from searchlora.eval.report.write import write_report

__all__ = ["Answer", "Detail", "Found", "extremes", "write_report"]
