"""A comparison on the terminal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from searchlora.eval.comparison import Comparison

_ON_SCREEN = ("nDCG@10", "Recall@100", "MRR@10")


def show(comparison: Comparison) -> None:
    """Print the main measures of each system with 95% intervals, and p against the candidate, else the baseline."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from searchlora.eval.formatting import interval, number, p_value

    bare = {re.sub(r"\(.*?\)", "", name): name for name in comparison.measures}  # MRR(rel=2)@10 is shown as MRR@10 is
    measures = [bare[name] for name in _ON_SCREEN if name in bare] or list(comparison.measures[:3])
    leading = comparison.candidate or comparison.baseline or comparison.systems[0]
    met = {b if a == leading else a: (a, b) for a, b in comparison.main_pairs}
    tested = next((pair.measure for pair in comparison.comparisons), None)
    title = escape(f"{comparison.label(leading)} and what it is compared with")
    table = Table(title=title, title_justify="left")
    table.add_column("system")
    for measure in measures:
        table.add_column(f"{measure}\n95% interval", justify="right")
    if tested is not None:
        table.add_column(escape(f"p against\n{comparison.label(leading)}\n({tested})"), justify="right")
    for system in comparison.systems:
        cells = [escape(comparison.label(system))]
        for measure in measures:
            row = comparison.find(system, measure)
            cells.append("–" if row is None else f"{number(row.value)}\n{interval(row.low, row.high)}")
        if tested is not None and system in met:
            pair = next((p for p in comparison.comparisons if (p.a, p.b, p.measure) == (*met[system], tested)), None)
            cells.append("–" if pair is None else p_value(pair.p_corrected))
        table.add_row(*cells, style="bold" if system == comparison.candidate else None)
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
    n = comparison.row(leading, measures[0]).n
    console.print(
        f"n = {n}. p: paired randomisation, two-sided, corrected ({comparison.correction}) over all comparisons made."
    )
    for system, reason in comparison.circular.items():
        console.print(escape(f"{comparison.label(system)}: {reason}"))
