"""Plots are SVG in the page's colours and show the measured values."""

from __future__ import annotations

import re

import pytest

from searchlora.eval.comparison import compare
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.report.plots import difference_plot, drawing, interval_plot, shortened, svg

pytestmark = pytest.mark.usefixtures("plots")


def compared(differences: list[float]):
    rows = [f"q{number}" for number in range(len(differences))]
    values = ({row: 0.5 + d for row, d in zip(rows, differences, strict=True)}, dict.fromkeys(rows, 0.5))
    systems = {
        name: Evaluation("MRR", {"MRR": of_row}, {row: row for row in rows})
        for name, of_row in zip("ab", values, strict=True)
    }
    return compare(systems, candidate="a", resamples=20)


def heights(plot: str, colour: str) -> list[float]:
    """How high the steps of one colour are, in units of the plot."""
    path = re.search(rf'<path d="([^"]*)"[^>]*style="fill: var\(--{colour}\)', plot)
    if path is None:
        return []
    ys = [float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", path[1])]
    return sorted({round(abs(y - ys[0]), 1) for y in ys} - {0})


def test_wins_and_losses_are_drawn_in_proportion():
    plot = difference_plot(compared([0.4, 0.2, 0.0, -0.1]), "a", "b")
    wins, losses = heights(plot, "good"), heights(plot, "bad")
    assert wins[1] == pytest.approx(2 * wins[0], abs=0.3) and losses[0] == pytest.approx(wins[0] / 2, abs=0.3)
    assert heights(difference_plot(compared([0.4, 0.2]), "a", "b"), "bad") == []


def test_many_rows_are_drawn_by_their_quantiles():
    few, many = (difference_plot(compared([place / n - 0.5 for place in range(n)]), "a", "b") for n in (200, 4000))
    assert len(many) < 1.5 * len(few)
    assert heights(many, "good")[-1] == pytest.approx(heights(few, "good")[-1], rel=0.05)


def test_colours_follow_the_page_and_text_stays_text():
    plot = interval_plot(compared([0.4, 0.2, 0.123]), "MRR")
    assert not re.findall(r"(?:fill|stroke): #(?!000000)[0-9a-f]{6}", plot)
    assert {"var(--accent)", "var(--muted)", "var(--ink)", "var(--line)"} <= set(re.findall(r"var\(--\w+\)", plot))
    assert ">0.741<" in plot and 'role="img" aria-label="MRR of 2 systems' in plot
    assert "xmlns" not in plot and "http" not in plot


def test_ids_of_two_plots_differ():
    plots = []
    for label in ("one", "two"):
        figure, axes = drawing(1.0)
        axes.plot([0, 1], [0, 1], "o")
        plots.append(svg(figure, label))
    ids = [set(re.findall(r'\bid="([^"]+)"', plot)) for plot in plots]
    assert ids[0] and not ids[0] & ids[1]


def test_long_names_are_shortened_in_the_middle():
    assert shortened("bm25") == "bm25"
    assert shortened("a" * 30 + "b" * 30 + " (circular)") == "a" * 20 + "…" + "b" * 8 + " (circular)"
