"""A comparison on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from searchlora.eval.compare import Comparison

_ON_SCREEN = ("nDCG@10", "Recall@100", "MRR@10")


def show(comparison: Comparison) -> None:
    """Print the main measures of each system with 95% intervals, and the paired p-values of the system under test."""
    from rich.console import Console
    from rich.table import Table

    from searchlora.eval.tables import chance, interval

    measures = [name for name in _ON_SCREEN if name in comparison.measures] or list(comparison.measures[:3])
    tested = next(pair.measure for pair in comparison.comparisons if pair.a == comparison.against)
    table = Table(title=f"{comparison.against} and what it is compared with", title_justify="left")
    table.add_column("system")
    for measure in measures:
        table.add_column(f"{measure}\n95% interval", justify="right")
    table.add_column(f"p against\n({tested})", justify="right")
    for system in comparison.systems:
        cells = []
        for measure in measures:
            row = comparison.row(system, measure)
            cells.append(f"{row.value:.3f}\n{interval(row.low, row.high)}")
        p = (
            ""
            if system == comparison.against
            else chance(comparison.pair(comparison.against, system, tested).p_corrected)
        )
        table.add_row(system, *cells, p)
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
    n = comparison.row(comparison.against, measures[0]).n
    console.print(
        f"n = {n}. p: paired randomisation, two-sided, corrected ({comparison.correction}) over all comparisons made."
    )
