"""HTML reports of a comparison, and an overview of several comparisons."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from searchlora.eval.calibration import Curve
from searchlora.eval.comparison import Comparison, Pair
from searchlora.eval.evaluation import Confusion
from searchlora.eval.formatting import interval, number
from searchlora.eval.policy import RuleResult
from searchlora.eval.report.examples import Detail, examples_section
from searchlora.eval.report.heat_maps import confusions_section, curves_section, slices_section
from searchlora.eval.report.page import Alert, Section, write_page
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
from searchlora.eval.significance import LEVEL


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


#: More pairs than this are told together, and of these only the names of so many systems.
_PAIRS = 4


def summary(comparison: Comparison) -> list[str]:
    """What was measured, what the pairs that are looked at first say, and how much of it is judged."""
    headline = comparison.measures[0]
    leading = comparison.candidate or comparison.baseline or comparison.systems[0]
    own = comparison.row(leading, headline)
    first = (
        f"{comparison.label(leading)} reaches {headline} {number(own.value)} {interval(own.low, own.high)} "
        f"over {own.n} rows" + (f" in {comparison.groups} independent groups." if comparison.groups != own.n else ".")
    )
    met = [
        pair
        for pair in comparison.comparisons
        if (pair.a, pair.b) in comparison.main_pairs and pair.measure == headline
    ]
    if len(met) <= _PAIRS:
        told = met
    else:
        told = [pair for pair in met if comparison.candidate is not None and pair.b == comparison.baseline]
    return [
        first,
        *(_sentence(comparison, pair) for pair in told),
        *(_together(comparison, met) if len(met) > _PAIRS else ()),
        *_judged(comparison),
    ]


def _sentence(comparison: Comparison, pair: Pair) -> str:
    a, b = comparison.label(pair.a), comparison.label(pair.b)
    if math.isnan(pair.difference):
        return f"{a} and {b} cannot be compared: there is no {pair.measure} of one of them."
    said = f"{interval(pair.low, pair.high, '+')}, {chance(pair.p_corrected)}"
    if pair.p_corrected > LEVEL:
        return (
            f"{a} is not shown to differ from {b}: the difference in {pair.measure} is {pair.difference:+.3f} {said}."
        )
    verb = "beats" if comparison.gain(pair.measure, pair.difference) > 0 else "falls behind"
    low, high = sorted((pair.low, pair.high), key=abs)
    # An interval across 0 keeps its signs; any other is told as the size of the difference.
    size = interval(abs(low), abs(high)) if low * high > 0 else interval(pair.low, pair.high, "+")
    return f"{a} {verb} {b} by {abs(pair.difference):.3f} {pair.measure} {size}, {chance(pair.p_corrected)}."


def _together(comparison: Comparison, met: Sequence[Pair]) -> Iterator[str]:
    """One sentence for those that win, one for those that lose, one for the rest."""
    measure = met[0].measure
    shown = [pair for pair in met if pair.p_corrected <= LEVEL]
    won, lost = ([pair for pair in shown if comparison.gain(measure, pair.difference) * sign > 0] for sign in (1, -1))
    rest = len(met) - len(shown)
    if comparison.candidate is not None:
        name = comparison.label(comparison.candidate)
        yield f"In {measure}, {name} beats {_counted(comparison, [pair.b for pair in won], len(met))}."
        if lost:
            yield f"It falls behind {_counted(comparison, [pair.b for pair in lost], len(met))}."
        if rest:
            yield f"From {rest} of {len(met)} it is not shown to differ."
        return
    name = comparison.label(met[0].b)
    yield f"In {measure}, {name} is beaten by {_counted(comparison, [pair.a for pair in won], len(met))}."
    if lost:
        yield f"Behind it: {_counted(comparison, [pair.a for pair in lost], len(met))}."
    if rest:
        yield f"{rest} of {len(met)} are not shown to differ from it."


def _counted(comparison: Comparison, systems: Sequence[str], of: int) -> str:
    if not systems:
        return f"none of {of} systems"
    names = [comparison.label(system) for system in systems[:_PAIRS]]
    more = [f"{len(systems) - _PAIRS} more"] if len(systems) > _PAIRS else []
    return f"{len(systems)} of {of} systems ({', '.join([*names, *more])})"


def _judged(comparison: Comparison) -> Iterator[str]:
    """How far the share of judged documents differs between systems, which favours some of them."""
    rows = [row for row in comparison.unjudged if row.measure.startswith("Judged@")]
    rows = [row for row in rows if row.measure == rows[0].measure]
    if not rows or min(row.value for row in rows) == 1:
        return
    least, most = (find(rows, key=lambda row: row.value) for find in (min, max))
    cutoff = least.measure.removeprefix("Judged@")
    told = f"Of the first {cutoff} documents, {least.value:.0%} are judged for {comparison.label(least.system)}"
    yield told + (f" and {most.value:.0%} for {comparison.label(most.system)}." if most.system != least.system else ".")


def chance(p: float) -> str:
    """`p < 0.001` or `p = 0.032`, not broken over two lines."""
    return (
        "p\N{NO-BREAK SPACE}<\N{NO-BREAK SPACE}0.001" if p < 0.001 else f"p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{p:.3f}"
    )


@dataclass(frozen=True)
class Chapter:
    """One task's evaluation.

    Attributes:
        details: Link to its own report, relative to the page.
    """

    title: str
    comparison: Comparison
    details: str


@dataclass(frozen=True)
class Stored:
    """A part of what lies on disk: a base model with its adapters, or what stands for it if each were a full model.

    Attributes:
        adapters: Name -> bytes.
    """

    base: str
    base_bytes: int
    adapters: Mapping[str, int]

    @property
    def together(self) -> int:
        """Bytes of the base and its adapters."""
        return self.base_bytes + sum(self.adapters.values())

    @property
    def full_models(self) -> int:
        """Bytes of as many full models as there are adapters."""
        return self.base_bytes * len(self.adapters)


def write_overview(
    path: str | Path,
    title: str,
    chapters: Sequence[Chapter],
    stored: Sequence[Stored],
    provenance: Mapping[str, str],
    *,
    introduction: str = "",
) -> Path:
    """Write the page, at once or not at all. Raises `DataError` when the file cannot be written."""
    sections = [_footprint(stored), *(_chapter(place, chapter) for place, chapter in enumerate(chapters, 1))]
    return write_page(path, title, sections, provenance, introduction=introduction)


def _chapter(place: int, chapter: Chapter) -> Section:
    found = systems_section(chapter.comparison)
    content = {"systems": found.content, "said": summary(chapter.comparison), "details": chapter.details}
    return replace(found, id=f"task-{place}", title=chapter.title, template="comparison.chapter", content=content)


def _footprint(stored: Sequence[Stored]) -> Section:
    together, full = (sum(of) for of in (
        [each.together for each in stored], [each.full_models for each in stored]
    ))  # fmt: skip
    content = {
        "stored": stored,
        "together": together,
        "full": full,
        "count": sum(len(each.adapters) for each in stored),
    }
    return Section("footprint", "On disk", "comparison.footprint", content)
