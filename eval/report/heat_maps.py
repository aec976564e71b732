"""Sections with tinted cells: slices, and confusions and calibration of labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from searchlora.eval.calibration import CurvePoint
from searchlora.eval.comparison import Comparison, PairedComparison, SystemScore
from searchlora.eval.evaluation import Confusion
from searchlora.eval.formatting import interval, number, p_value
from searchlora.eval.report.blocks import Block, Cell, Group, Heading, Line, Plot, Section, Table, Text, estimate, table
from searchlora.eval.report.plots import curve_plot
from searchlora.eval.report.sections import share
from searchlora.eval.significance import LEVEL

#: Greatest number of columns that stay readable.
_COLUMNS = 6

#: Marks of a difference whose interval excludes 0, and of one that is significant after correction over all slices.
APART, SHOWN = "○", "●"

#: Greatest number of labels shown as a matrix, and the number of confused pairs shown instead.
READABLE, PAIRS = 12, 12


def slices_section(comparison: Comparison) -> Section | None:
    """A heat map of means and one of differences for each slice, in the headline, else the first mean."""
    measure = comparison.row_measure
    means: dict[str, dict[str, list[SystemScore]]] = {}
    for part in comparison.slices:
        if part.row.measure == measure:
            means.setdefault(part.slice, {}).setdefault(part.value, []).append(part.row)
    if not means:
        return None
    pairs: dict[str, dict[str, list[PairedComparison]]] = {}
    for compared in comparison.slice_pairs:
        pair = compared.pair
        if pair.measure == measure and (pair.a, pair.b) in comparison.main_pairs:
            pairs.setdefault(compared.slice, {}).setdefault(compared.value, []).append(pair)
    blocks: list[Block] = []
    for name, values in means.items():
        blocks += [Heading(f"by {name}"), _means(comparison, name, values)]
        if name in pairs:
            blocks += [Text(f"Differences: {_against(comparison)}"), _differences(comparison, name, pairs[name])]
    if comparison.slice_pairs:
        blocks.append(
            Text(
                f"{APART}: the 95% interval of the difference excludes 0, which happens by chance among many slices. "
                f"{SHOWN}: significant at 0.05 after correction over the {len(comparison.slice_pairs)} comparisons of "
                "all slices and tested measures; p is the corrected one, and it decides."
            )
        )
    lead = f"Mean {measure} with its 95% interval; a stronger tint is a better value. Below it, the paired differences."
    return Section("slices", "Slices", tuple(blocks), lead)


def confusion_table(
    label: str, rows: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]], corner: str
) -> Table:
    """A table of counts, tinted by their share of the row."""
    lines = [
        Line((Cell(name, (f"n = {sum(row)}",)), *(_count(count, sum(row)) for count in row)))
        for name, row in zip(rows, counts, strict=True)
    ]
    return replace(table(label, [corner, *columns], lines), heat=True)


def confusions_section(confusions: Mapping[str, Confusion]) -> Section | None:
    """Confusion matrices by title: as heat maps, or with many labels as the most frequently confused pairs."""
    if not confusions:
        return None
    blocks: list[Block] = []
    matrices = {title: matrix for title, matrix in confusions.items() if len(matrix.rows) <= READABLE}
    for title, matrix in matrices.items():
        label = f"Confusion matrix, {title}"
        blocks += [
            Heading(title),
            confusion_table(label, matrix.rows, matrix.columns, matrix.counts, "gold \\ predicted"),
        ]
    for title, matrix in confusions.items():
        if title not in matrices:
            blocks += [Heading(title), *_confused_pairs(title, matrix)]
    for title, matrix in confusions.items():
        lines = _per_label(matrix)
        if lines:
            labels = table(f"Per label, {title}", ["label", "rows", "precision", "recall", "F1"], lines)
            blocks.append(Group("fold", (labels,), f"Per label: {title}"))
    lead = "Rows are gold labels; a stronger tint is a greater share of the row." if matrices else ""
    return Section("confusions", "Confusions", tuple(blocks), lead)


def curves_section(curves: Mapping[str, Sequence[CurvePoint]]) -> Section | None:
    """Calibration curves with their figures, by title."""
    blocks: list[Block] = []
    for title, points in curves.items():
        if points:
            axes = ("predicted probability", "observed share")
            head = ("predicted", "observed", "n", "groups")
            blocks += [Heading(title), calibration_block(title, points, head, axes)]
    lead = "Observed share by predicted probability; on the dashed line they are equal."
    return Section("calibration", "Calibration", tuple(blocks), lead) if blocks else None


def calibration_block(title: str, points: Sequence[CurvePoint], head: Sequence[str], axes: tuple[str, str]) -> Group:
    """A calibration curve with its figures beside it.

    Args:
        axes: Labels of the predicted and the observed value.
    """
    lines = [
        [
            number(point.predicted, ".3g"),
            Cell(number(point.observed, ".2f"), (interval(point.low, point.high),)),
            str(point.n),
            str(point.groups),
        ]
        for point in points
    ]
    return Group("beside", (Plot(curve_plot(points, title, *axes)), table(f"Calibration, {title}", head, lines)))


def _means(comparison: Comparison, name: str, values: Mapping[str, Sequence[SystemScore]]) -> Table:
    """The means of a slice, tinted from the worst to the best."""
    means = [score.value for scores in values.values() for score in scores]
    worst, best = min(means), max(means)
    if comparison.row_measure in comparison.less_is_better:
        worst, best = best, worst

    def cell(score: SystemScore) -> Cell:
        tint = (score.value - worst) / (best - worst) if best != worst else 0.5
        return replace(estimate(score.value, score.low, score.high), tint=tint)

    columns = [(Cell(value, (f"n = {scores[0].n}",)), tuple(map(cell, scores))) for value, scores in values.items()]
    names = [comparison.label(system) for system in comparison.systems]
    return _readable(f"{comparison.row_measure} by {name}", name, names, columns)


def _differences(comparison: Comparison, name: str, values: Mapping[str, Sequence[PairedComparison]]) -> Table:
    largest = max(abs(pair.difference) for pairs in values.values() for pair in pairs) or 1.0

    def cell(pair: PairedComparison) -> Cell:
        apart = not math.isnan(pair.low) and (pair.low > 0 or pair.high < 0)
        return Cell(
            f"{pair.difference:+.3f}",
            (interval(pair.low, pair.high, "+"), f"p {p_value(pair.p_corrected)}"),
            tint=abs(pair.difference) / largest,
            colour="good" if comparison.gain(pair.measure, pair.difference) > 0 else "bad",
            mark=SHOWN if pair.p_corrected <= LEVEL else APART if apart else "",
        )

    columns = [(Cell(value, (f"n = {pairs[0].n}",)), tuple(map(cell, pairs))) for value, pairs in values.items()]
    names = [comparison.label(b if a == comparison.candidate else a) for a, b in comparison.main_pairs]
    return _readable(f"Differences in {comparison.row_measure} by {name}", name, names, columns)


def _readable(label: str, name: str, systems: Sequence[str], columns: Sequence[tuple[Cell, Sequence[Cell]]]) -> Table:
    """A heat map with a line for each system, or for each value of the slice if there are many values."""
    heads = [head for head, _ in columns]
    by_system = list(zip(*(cells for _, cells in columns), strict=True))
    if len(heads) <= _COLUMNS or len(heads) <= len(systems):
        lines = [Line((Cell(system), *cells)) for system, cells in zip(systems, by_system, strict=True)]
        return replace(table(label, ["system", *heads], lines), heat=True)
    return replace(table(label, [name, *systems], [Line((head, *cells)) for head, cells in columns]), heat=True)


def _against(comparison: Comparison) -> str:
    """The order of subtraction, printed above the differences."""
    if comparison.candidate is not None:
        return f"{comparison.label(comparison.candidate)} minus each other system"
    return f"each other system minus {comparison.label(comparison.baseline)}" if comparison.baseline else ""


def _count(count: int, total: int) -> Cell:
    return Cell(str(count), (f"{count / total:.0%}",), tint=count / total) if count else Cell("0")


def _confused_pairs(title: str, matrix: Confusion) -> tuple[Block, ...]:
    """The cells off the diagonal, by falling count."""
    wrong = [
        (true, predicted, count, sum(counts))
        for true, counts in zip(matrix.rows, matrix.counts, strict=True)
        for predicted, count in zip(matrix.columns, counts, strict=True)
        if count and predicted != true
    ]
    wrong.sort(key=lambda pair: -pair[2])
    lines = [
        [true, predicted, str(count), Cell(share(count, total), (f"of {total}",))]
        for true, predicted, count, total in wrong[:PAIRS]
    ]
    most = f"; the {PAIRS} most frequent ones are shown" if len(wrong) > PAIRS else ""
    note = (
        f"{sum(count for _, _, count, _ in wrong)} of {sum(map(sum, matrix.counts))} rows are confused, in "
        f"{len(wrong)} pairs of labels{most}. {len(matrix.rows)} labels: a matrix is shown up to {READABLE}."
    )
    head = ["gold", "predicted", "rows", "share of the label"]
    return table(f"Confused most often, {title}", head, lines, words=2), Text(note)


def _per_label(matrix: Confusion) -> list[list[str]]:
    """Each label that occurs in gold, with its count, precision, recall and F1 (0 if it is never predicted)."""
    lines = []
    for row, label in enumerate(matrix.rows):
        true = sum(matrix.counts[row])
        if not true or label not in matrix.columns:
            continue
        column = matrix.columns.index(label)
        hits, predicted = matrix.counts[row][column], sum(counts[column] for counts in matrix.counts)
        scores = (hits / predicted if predicted else 0.0, hits / true, 2 * hits / (predicted + true))
        lines.append([label, str(true), *map(number, scores)])
    return lines
