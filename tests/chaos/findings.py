"""What a part of the chaos suite found, and the table of all parts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass
class Finding:
    """The outcome of one part.

    Attributes:
        name: In the table.
        attempts: What was tried, counted in `unit`.
        unit: Of `attempts`, for example "requests".
        seen: What held, and further figures, for the table.
        problems: What must not happen and did.
        seconds: Wall time.
    """

    name: str
    attempts: int = 0
    unit: str = "attempts"
    seen: str = ""
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def line(self) -> str:
        """All of it in one line.

        Examples:
            >>> Finding("load", 100, "answers", "all equal", seconds=3.2).line()
            'load: 100 answers, 0 failures; all equal; 3 s'
        """
        counts = f"{self.attempts:,} {self.unit}, {len(self.problems)} failures"
        return f"{self.name}: {counts}; {self.seen}; {self.seconds:.0f} s"


def report(findings: Sequence[Finding], seconds: float) -> str:
    """All findings as one Markdown table, and the problems as a list below it; `seconds` is the whole wall time."""
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {seconds / 60:.0f} minutes in all.",
        "",
        "| part | tried | failures | seen | seconds |",
        "|---|---|--:|---|--:|",
    ]
    lines += [
        f"| {each.name} | {each.attempts:,} {each.unit} | {len(each.problems)} | {each.seen} | {each.seconds:.0f} |"
        for each in findings
    ]
    problems = [f"* {each.name}: {' '.join(problem.split())[:600]}" for each in findings for problem in each.problems]
    return "\n".join([*lines, *(["", "Problems:", "", *problems] if problems else [])])
