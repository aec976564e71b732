"""HTML reports of a comparison, and an overview of several comparisons."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from searchlora.eval.calibration import CurvePoint
from searchlora.eval.comparison import Comparison, PairedComparison
from searchlora.eval.evaluation import Confusion
from searchlora.eval.formatting import interval, number
from searchlora.eval.policy import RuleResult
from searchlora.eval.report.blocks import Section, Text
from searchlora.eval.report.examples import RowTexts, examples_section
from searchlora.eval.report.heat_maps import confusions_section, curves_section, slices_section
from searchlora.eval.report.page import Alert, write_page
from searchlora.eval.report.sections import (
    costs_section,
    invalid_section,
    notes_section,
    pairs_section,
    rows_section,
    rules_section,
    systems_section,
    unjudged_section,
)
from searchlora.eval.significance import LEVEL


def write_report(
    path: str | Path,
    title: str,
    comparison: Comparison,
    details: Mapping[str, RowTexts],
    provenance: Mapping[str, str],
    *,
    introduction: str = "",
    rules: Sequence[RuleResult] = (),
    forced: str = "",
    confusions: Mapping[str, Confusion] | None = None,
    curves: Mapping[str, Sequence[CurvePoint]] | None = None,
    base: str | None = None,
    first: Sequence[Section | None] = (),
) -> Path:
    """Write a comparison as one self-contained HTML file, atomically.

    Args:
        details: Row id -> its texts. Only the rows with the largest wins and losses are shown (see
            `extremes`); rows without texts are skipped.
        provenance: Inputs and settings behind the figures, label -> value, in the order shown.
        introduction: One or two sentences on what was compared, shown below the title.
        rules: The results of a policy for the candidate.
        forced: The reason given for a forced promotion; not shown if no rule is broken.
        confusions, curves: By title, for systems that predict labels or probabilities.
        base: The system that costs are compared with; None: the baseline.
        first: Sections of the caller's own, shown before those of the comparison.
    """
    # If every rule is met, nothing was forced.
    reason = forced if any(not rule.passed for rule in rules) else ""
    sections = [
        rules_section(rules, reason),
        *first,
        systems_section(comparison),
        pairs_section(comparison),
        rows_section(comparison),
        slices_section(comparison),
        unjudged_section(comparison),
        examples_section(comparison, details),
        confusions_section(confusions or {}),
        curves_section(curves or {}),
        costs_section(comparison, base),
        invalid_section(comparison),
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
    verdict = f"{broken} of {len(rules)} rules of the policy are broken."
    if forced:
        return [Alert("Promoted by force", (verdict, f"The reason given: {forced}"))]
    if broken:
        return [Alert("Refused by the policy", (verdict,))]
    return [Alert("The policy is met", (f"{len(rules)} of {len(rules)} rules are met.",), "good")]


def _circular(comparison: Comparison) -> list[Alert]:
    """No judge grades itself: circular figures are marked before any figure is shown."""
    if not comparison.circular:
        return []
    reasons = tuple(f"{comparison.label(system)}: {why}" for system, why in comparison.circular.items())
    return [Alert("Circular: a judge is part of what it judged", reasons)]


#: Greatest number of pairs with a sentence each, and of systems named in a sentence.
_MAX_NAMED = 4


def summary(comparison: Comparison) -> list[str]:
    """Sentences on the headline, the main pairs and the share of judged documents."""
    headline = comparison.measures[0]
    leading = comparison.candidate or comparison.baseline or comparison.systems[0]
    figure, groups = comparison.row(leading, headline), comparison.measure_groups[headline]
    first = (
        f"{comparison.label(leading)} reaches {headline} {number(figure.value)} "
        f"{interval(figure.low, figure.high)} over {figure.n} rows"
        + (f" in {groups} independent groups." if groups != figure.n else ".")
    )
    main = [
        pair
        for pair in comparison.comparisons
        if (pair.a, pair.b) in comparison.main_pairs and pair.measure == headline
    ]
    many = len(main) > _MAX_NAMED
    single = [pair for pair in main if not many or (comparison.candidate and pair.b == comparison.baseline)]
    sentences = [first, *(_sentence(comparison, pair) for pair in single)]
    return [*sentences, *([_grouped(comparison, main)] if many else []), *_judged(comparison)]


def _sentence(comparison: Comparison, pair: PairedComparison) -> str:
    a, b = comparison.label(pair.a), comparison.label(pair.b)
    if math.isnan(pair.difference):
        return f"{a} and {b} cannot be compared: there is no {pair.measure} of one of them."
    evidence = f"{interval(pair.low, pair.high, '+')}, {_p_phrase(pair.p_corrected)}"
    if pair.p_corrected > LEVEL:
        difference = f"the difference in {pair.measure} is {pair.difference:+.3f} {evidence}"
        decides = "; the corrected p decides, not the interval" if pair.low * pair.high > 0 else ""
        return f"{a} is not shown to differ from {b}: {difference}{decides}."
    verb = "beats" if comparison.gain(pair.measure, pair.difference) > 0 else "falls behind"
    low, high = sorted((pair.low, pair.high), key=abs)
    # An interval that includes 0 keeps its signs; any other is printed as the size of the difference.
    size = interval(abs(low), abs(high)) if low * high > 0 else interval(pair.low, pair.high, "+")
    return f"{a} {verb} {b} by {abs(pair.difference):.3f} {pair.measure} {size}, {_p_phrase(pair.p_corrected)}."


def _grouped(comparison: Comparison, pairs: Sequence[PairedComparison]) -> str:
    """How many systems the candidate, else the baseline, beats, falls behind, and is not shown to differ from."""
    name, measure = comparison.label(comparison.candidate or pairs[0].b), pairs[0].measure
    won, lost = list[str](), list[str]()
    for pair in pairs:
        if pair.p_corrected <= LEVEL:
            is_better = comparison.gain(measure, pair.difference) > 0
            other = pair.a if comparison.candidate is None else pair.b
            (won if is_better == (other == pair.b) else lost).append(comparison.label(other))
    rest = len(pairs) - len(won) - len(lost)
    return (
        f"In {measure}, of {len(pairs)} systems, {name} beats {_counted(won)}, falls behind {_counted(lost)}, and is "
        f"not shown to differ from {rest or 'none'}."
    )


def _counted(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = [f"{len(names) - _MAX_NAMED} more"] if len(names) > _MAX_NAMED else []
    return f"{len(names)} ({', '.join([*names[:_MAX_NAMED], *more])})"


def _judged(comparison: Comparison) -> Iterator[str]:
    """The smallest and largest share of judged documents; systems with a larger share are favoured."""
    rows = [row for row in comparison.unjudged if row.measure.startswith("Judged@")]
    rows = [row for row in rows if row.measure == rows[0].measure]
    if not rows or min(row.value for row in rows) == 1:
        return
    least, greatest = (extreme(rows, key=lambda row: row.value) for extreme in (min, max))
    cutoff = least.measure.removeprefix("Judged@")
    shares = f"Of the first {cutoff} documents, {least.value:.0%} are judged for {comparison.label(least.system)}"
    yield shares + (
        f" and {greatest.value:.0%} for {comparison.label(greatest.system)}."
        if greatest.system != least.system
        else "."
    )


def _p_phrase(p: float) -> str:
    """`p < 0.001` or `p = 0.032`, with non-breaking spaces."""
    return (
        "p\N{NO-BREAK SPACE}<\N{NO-BREAK SPACE}0.001" if p < 0.001 else f"p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{p:.3f}"
    )


@dataclass(frozen=True)
class Chapter:
    """One task's comparison in an overview.

    Attributes:
        details: Link to the full report of the task, relative to the page.
    """

    title: str
    comparison: Comparison
    details: str


def write_overview(
    path: str | Path,
    title: str,
    chapters: Sequence[Chapter],
    provenance: Mapping[str, str],
    *,
    introduction: str = "",
) -> Path:
    """Write an overview of several comparisons, atomically."""
    sections = [_chapter(number, chapter) for number, chapter in enumerate(chapters, 1)]
    return write_page(path, title, sections, provenance, introduction=introduction)


def _chapter(number: int, chapter: Chapter) -> Section:
    figures = systems_section(chapter.comparison)
    sentences = [Text(sentence, note=False) for sentence in summary(chapter.comparison)]
    link = Text("Full report of this task", note=False, link=chapter.details)
    return replace(figures, id=f"task-{number}", title=chapter.title, blocks=(*sentences, link, *figures.blocks))
