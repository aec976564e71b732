"""Sections of a comparison, as HTML and Markdown show them; a section without content is None."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from searchlora.eval.comparison import Comparison, PairedComparison, SystemScore
from searchlora.eval.formatting import number, p_value
from searchlora.eval.policy import RuleResult
from searchlora.eval.report.blocks import (
    Block,
    Bullets,
    Cell,
    Group,
    Line,
    Plot,
    Section,
    Table,
    Text,
    estimate,
    fold_all_but_first,
    line,
    table,
)
from searchlora.eval.report.plots import difference_plot, interval_plot
from searchlora.eval.significance import CORRECTION_NAMES, LEVEL
from searchlora.eval.unjudged import CONDENSED

#: Greatest number of plots that are not folded.
_OPEN = 4


def rules_section(results: Sequence[RuleResult], forced: str = "") -> Section | None:
    """The rules of the policy with their results."""
    if not results:
        return None
    lines = [
        [
            result.rule,
            Cell("met", tone="good") if result.passed else Cell("broken", tone="bad"),
            result.finding,
            "" if result.passed else number(result.short_by, ".3g"),
        ]
        for result in results
    ]
    rules = table("Rules of the policy", ["rule", "result", "finding and requirement", "missed by"], lines, words=3)
    reason = [Text(f"Promoted by force. The reason given: {forced}", alert=True)] if forced else []
    return Section("policy", "Policy", (*reason, rules))


def systems_section(comparison: Comparison, *, plots: bool = True) -> Section:
    """Figures with intervals, as a table and as plots."""
    same_n = _common_n(comparison.rows)
    lines = []
    for system in comparison.systems:
        scores = [_score(comparison.find(system, measure), same_n) for measure in comparison.measures]
        invalid = Cell(str(len(comparison.invalid.get(system, {}))), (f"of {comparison.answered[system]}",))
        lines.append(_system_line(comparison, system, [*scores, *_count(same_n), invalid], role=True))
    head = [
        "system",
        *(Cell(measure, _direction(comparison, measure)) for measure in comparison.measures),
        *(["n"] if same_n else []),
        "invalid",
    ]
    caption = (
        f"Mean and 95% interval, by the studentised bootstrap over whole groups of rows ({comparison.groups} groups). "
        "An invalid output counts as the task's fallback, or as worst; it is never left out. Invalid outputs are "
        "counted over all rows that the system answered, including rows that other systems did not answer."
    )
    if comparison.aggregates:
        caption += f" Aggregates of all rows, not means of rows: {', '.join(comparison.aggregates)}."
    if comparison.zero_is_best:
        caption += f" Systems are not compared by {', '.join(comparison.zero_is_best)}."
    blocks: list[Block] = [table("Measures of each system", head, lines), Text(caption)]
    if plots:
        first, *others = [Plot(interval_plot(comparison, measure), measure) for measure in comparison.measures]
        blocks.append(Plot(first.drawing, f"{first.title} with 95% intervals", wide=True))
        if others:
            blocks.append(Group("fold", (Group("plots", tuple(others)),), "The other measures with 95% intervals"))
    return Section("systems", "Systems", tuple(blocks))


def pairs_section(comparison: Comparison) -> Section | None:
    """Paired comparisons, those of the headline first."""
    if not comparison.comparisons:
        return None
    tables = [
        (measure, _pair_table(comparison, measure, pairs))
        for measure in comparison.measures
        if (pairs := [pair for pair in comparison.comparisons if pair.measure == measure])
    ]
    caption = (
        "A highlighted difference is significant at 0.05 after correction. p: two-sided paired randomisation over "
        f"groups, corrected by {CORRECTION_NAMES[comparison.correction]} over all {len(comparison.comparisons)} "
        "comparisons in all measures; p (t): paired t test, not corrected. The interval of a difference is not "
        "corrected. Effect: Cohen's d_z. Detectable: the smallest true difference that the t test detects with power "
        "0.8 at level 0.05, for this number of rows and this spread. An aggregate has no wins and no effect; its t "
        "test uses the jackknife error."
    )
    return Section(
        "pairs",
        "Paired comparisons",
        (*fold_all_but_first(tables), _note(caption, comparison.disagreements(comparison.comparisons))),
    )


def rows_section(comparison: Comparison) -> Section | None:
    """The difference of every row, for each main pair."""
    measure = comparison.row_measure
    if not comparison.main_pairs or measure is None:
        return None
    plots = []
    for a, b in comparison.main_pairs:
        gains = list(comparison.gains(a, b).values())
        wins, losses = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
        caption = (
            f"{wins} wins, {losses} losses, {len(gains) - wins - losses} ties; from {min(gains):+.3f} to "
            f"{max(gains):+.3f}; n = {len(gains)}"
        )
        title = f"{comparison.label(a)} against {comparison.label(b)}"
        plots.append(Plot(difference_plot(comparison, a, b), title, caption))
    blocks: list[Block] = [Group("plots", tuple(plots[:_OPEN]))]
    if folded := plots[_OPEN:]:
        blocks.append(Group("fold", (Group("plots", tuple(folded)),), f"{len(folded)} more"))
    return Section(
        "rows",
        "Row by row",
        tuple(blocks),
        f"The difference in {measure} of every row, {comparison.gain_direction}: wins above the line, losses below.",
    )


def unjudged_section(comparison: Comparison) -> Section | None:
    """Share of judged documents, and figures without unjudged documents."""
    if not comparison.unjudged:
        return None
    scores = by_system(comparison.unjudged)
    depths = list(dict.fromkeys(score.measure for score in comparison.unjudged if score.measure.startswith("Judged@")))
    blocks: list[Block] = []
    if depths:
        lines = [
            [comparison.label(system), *(_score(of[depth]) for depth in depths), str(of[depths[0]].n)]
            for system, of in scores.items()
        ]
        caption = (
            "Share of the first documents that are judged. Unjudged documents count as not relevant in all other "
            "tables, which favours systems whose documents were judged."
        )
        blocks += [table("Share of judged documents", ["system", *depths, "n"], lines), Text(caption)]
    tables = []
    for measure in comparison.measures:
        condensed = f"{measure} {CONDENSED}"
        lines = [
            [comparison.label(system), _score(plain), _score(of[condensed]), str(of[condensed].n)]
            for system, of in scores.items()
            if condensed in of and (plain := comparison.find(system, measure)) is not None
        ]
        if lines:
            label = f"{measure} with and without unjudged documents"
            head = ["system", measure, "condensed", "n"]
            tables.append((measure, table(label, head, lines)))
    blocks += fold_all_but_first(tables)
    if tables:
        caption = (
            "Unjudged documents count as not relevant, as in all other tables; condensed: they are removed from the "
            "ranking."
        )
        blocks.append(Text(caption))
    return Section("unjudged", "Unjudged documents", tuple(blocks))


def costs_section(comparison: Comparison, base: str | None = None) -> Section | None:
    """Mean costs of a row, and their ratio to those of the base or baseline.

    Args:
        base: The system that costs are compared with; None: the baseline.
    """
    kinds = list(dict.fromkeys(kind for costs in comparison.costs.values() for kind in costs))
    if not kinds:
        return None
    reference = next((system for system in (base, comparison.baseline) if system in comparison.costs), None)
    against = comparison.costs[reference] if reference is not None else {}
    lines = []
    for system, costs in comparison.costs.items():
        cells = []
        for kind in kinds:
            ratio = _ratio(costs.get(kind), against.get(kind)) if system != reference else None
            cells.append(Cell(number(costs.get(kind), ",.4g"), () if ratio is None else (f"× {ratio:.2f}",)))
        lines.append(_system_line(comparison, system, cells))
    compared = f"; × is the ratio to {comparison.label(reference)}" if reference is not None else ""
    caption = Text(f"Means over the evaluation, with its batching{compared}.")
    return Section("costs", "Cost and speed", (table("Cost and speed", ["system", *kinds], lines), caption))


def invalid_section(comparison: Comparison) -> Section | None:
    """Number of outputs of each system that did not parse, with the most frequent reasons."""
    if not any(comparison.invalid.values()):
        return None
    lines = []
    for system in comparison.systems:
        reasons = Counter(comparison.invalid[system].values())
        count, answered = reasons.total(), comparison.answered[system]
        frequent = [f"{reason} ({times})" for reason, times in reasons.most_common(5)] or ["–"]
        lines.append(
            [
                comparison.label(system),
                Cell(frequent[0], tuple(frequent[1:])),
                Cell(str(count), (f"{share(count, answered)} of {answered}",)),
            ]
        )
    head = ["system", "most frequent reasons", "invalid"]
    return Section("invalid", "Invalid outputs", (table("Invalid outputs", head, lines, words=2),))


def notes_section(notes: Sequence[str]) -> Section | None:
    """Notes for the reader."""
    return Section("notes", "Notes", (Bullets(tuple(notes)),)) if notes else None


def by_system(scores: Iterable[SystemScore]) -> dict[str, dict[str, SystemScore]]:
    """System -> measure -> score."""
    by_name: dict[str, dict[str, SystemScore]] = {}
    for score in scores:
        by_name.setdefault(score.system, {})[score.measure] = score
    return by_name


def difference(comparison: Comparison, pair: PairedComparison) -> Cell:
    """A difference with its interval, `good` or `bad` if it is significant."""
    tone = "even"
    if pair.p_corrected <= LEVEL:
        tone = "good" if comparison.gain(pair.measure, pair.difference) > 0 else "bad"
    return estimate(pair.difference, pair.low, pair.high, "+", tone)


def pair_name(comparison: Comparison, pair: PairedComparison) -> str:
    """The printed names of a pair."""
    return f"{comparison.label(pair.a)} − {comparison.label(pair.b)}"


def share(part: float, total: float) -> str:
    """A percentage such as `12.5%`; a dash if the total is 0."""
    return f"{part / total:.1%}" if total else "–"


def _pair_table(comparison: Comparison, measure: str, pairs: Sequence[PairedComparison]) -> Table:
    head = [
        "comparison",
        f"difference in {measure}",
        "p corrected",
        "wins / losses / ties",
        "effect",
        "detectable",
        "p",
        "p (t)",
    ]
    lines = [
        [
            pair_name(comparison, pair),
            difference(comparison, pair),
            p_value(pair.p_corrected),
            Cell("–" if pair.wins is None else f"{pair.wins} / {pair.losses} / {pair.ties}", (f"n = {pair.n}",)),
            number(pair.effect, "+.2f"),
            number(pair.mde),
            p_value(pair.p),
            p_value(pair.p_t),
        ]
        for pair in pairs
    ]
    return table(f"Paired comparisons in {measure}", head, lines)


def _system_line(comparison: Comparison, system: str, cells: Sequence[object], *, role: bool = False) -> Line:
    roles = {comparison.candidate: "candidate", comparison.baseline: "baseline"} if role else {}
    name = Cell(comparison.label(system), (roles[system],) if system in roles else ())
    return line([name, *cells], system == comparison.candidate)


def _score(score: SystemScore | None, same_n: int | None = 1) -> Cell:
    """A figure with its interval, and with its n where that is not the same in the whole table."""
    if score is None:
        return Cell("–")
    cell = estimate(score.value, score.low, score.high)
    return cell if same_n else Cell(cell.text, (*cell.small, f"n = {score.n}"))


def _direction(comparison: Comparison, measure: str) -> tuple[str, ...]:
    if measure in comparison.zero_is_best:
        return ("0 is best",)
    return ("less is better",) if measure in comparison.less_is_better else ()


def _common_n(scores: Iterable[SystemScore]) -> int | None:
    """The number of rows if it is the same for all measures; it is then printed in one column."""
    counts = {score.n for score in scores}
    return counts.pop() if len(counts) == 1 else None


def _count(same_n: int | None) -> list[str]:
    return [str(same_n)] if same_n else []


def _note(caption: str, disagreements: str) -> Text:
    return Text(f"{caption} {disagreements}".rstrip())


def _ratio(value: float | None, reference: float | None) -> float | None:
    if value is None or not reference or not math.isfinite(reference):
        return None
    return value / reference
