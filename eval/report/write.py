"""Writing the report of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from searchlora.eval.calibration import Curve
from searchlora.eval.comparison import Comparison
from searchlora.eval.evaluation import Confusion
from searchlora.eval.policy import RuleResult
from searchlora.eval.report.details import Detail
from searchlora.eval.report.examples import examples_section
from searchlora.eval.report.labels import confusions_section, curves_section
from searchlora.eval.report.page import Alert, write_page
from searchlora.eval.report.sections import (
    costs_section,
    invalid_section,
    notes_section,
    pairs_section,
    rows_section,
    rules_section,
    systems_section,
    totals_section,
    traffic_section,
    unjudged_section,
)
from searchlora.eval.report.slices import slices_section
from searchlora.eval.report.words import summary


def write_report(
    path: str | Path,
    title: str,
    comparison: Comparison,
    details: Mapping[str, Detail],
    provenance: Mapping[str, str],
    *,
    introduction: str = "",
    examples: int = 5,
    rules: Sequence[RuleResult] = (),
    forced: str = "",
    confusions: Mapping[str, Confusion] | None = None,
    curves: Mapping[str, Curve] | None = None,
    base: str | None = None,
) -> Path:
    """Write a comparison as one HTML file without any outside part, at once or not at all.

    Args:
        details: row id -> its texts; only the rows with the biggest wins and losses are shown, those without texts
            are passed over. `extremes` names them, for a caller who does not want to make all.
        provenance: What the figures were made from and with, label -> value, in the order shown.
        introduction: A plain sentence or two on what was compared, shown below the title.
        examples: How many wins and how many losses are shown for each system set against, at most.
        rules: What a policy said of the candidate.
        forced: The reason of somebody who put it through against the policy; not shown where no rule is broken.
        confusions, curves: By title, where systems give labels or probabilities.
        base: The system whose costs are the measure of the others'; None: the baseline.

    Raises:
        DataError: when the file cannot be written.
    """
    # Where every rule is held, nothing had to be forced.
    reason = forced if any(not rule.passed for rule in rules) else ""
    sections = [
        rules_section(rules, reason),
        systems_section(comparison),
        pairs_section(comparison),
        rows_section(comparison),
        slices_section(comparison),
        traffic_section(comparison),
        unjudged_section(comparison),
        examples_section(comparison, details, examples),
        confusions_section(confusions or {}),
        curves_section(curves or {}),
        costs_section(comparison, base),
        invalid_section(comparison),
        totals_section(comparison),
        notes_section(comparison.notes),
    ]
    return write_page(
        path,
        title,
        sections,
        provenance,
        introduction=introduction,
        alerts=[*_decision(rules, reason), *_circular(comparison)],
        summary=summary(comparison),
    )


def _decision(rules: Sequence[RuleResult], forced: str) -> list[Alert]:
    if not rules:
        return []
    broken = sum(not rule.passed for rule in rules)
    said = f"{broken} of {len(rules)} rules of the policy are broken."
    if forced:
        return [Alert("Promoted by force", (said, f"The reason given: {forced}"))]
    if broken:
        return [Alert("Refused by the policy", (said,))]
    return [Alert("The policy is met", (f"{len(rules)} of {len(rules)} rules are held.",), "good")]


def _circular(comparison: Comparison) -> list[Alert]:
    """Law 6."""
    if not comparison.circular:
        return []
    reasons = tuple(f"{comparison.label(system)}: {why}" for system, why in comparison.circular.items())
    return [Alert("Circular: a judge had a part in what it judged", reasons)]
