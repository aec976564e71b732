"""Figures as they are printed, on screens, in reports and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence


def number(value: float | None, form: str = ".3f") -> str:
    """A single figure; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:{form}}"


def figure(value: float, low: float, high: float, sign: str = "") -> str:
    """`0.310 (0.290 to 0.330)`; a dash where there is none. With sign "+", as differences are written."""
    return "–" if math.isnan(value) else f"{value:{sign}.3f} {interval(low, high, sign)}"


def interval(low: float, high: float, sign: str = "") -> str:
    """`(0.290 to 0.330)`; with sign "+", as differences are written."""
    if math.isnan(low):
        return "(no interval)"
    return f"({low:{sign}.3f} to {high:{sign}.3f})"


def chance(p: float) -> str:
    """A p value: `0.032`, `<0.001`; a dash where there is none."""
    return "–" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """A table whose first columns hold words and the others figures; what would break a cell is escaped."""
    lines = [head, ["---"] * words + ["---:"] * (len(head) - words), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
