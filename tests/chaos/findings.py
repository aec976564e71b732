"""What a check of the chaos suite found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Finding:
    """The outcome of one check.

    Attributes:
        name: In the table.
        attempts: What was tried, counted in `unit`.
        unit: Of `attempts`, for example "requests".
        figures: Further figures, for the table.
        problems: What must not happen and did.
    """

    name: str
    attempts: int = 0
    unit: str = "attempts"
    figures: str = ""
    problems: list[str] = field(default_factory=list)


def findings_table(findings: list[Finding]) -> str:
    """The findings as a Markdown table."""
    rows = ["| check | tried | found | problems |", "|---|--:|---|--:|"]
    rows += [
        f"| {each.name} | {each.attempts:,} {each.unit} | {each.figures} | {len(each.problems)} |" for each in findings
    ]
    return "\n".join(rows)
