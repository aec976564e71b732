"""A policy's rules on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from searchlora.eval.policy import RuleResult


def show_rules(results: Sequence[RuleResult]) -> None:
    """Print each rule, held or broken, and by how much a broken one was missed."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "rule", "found", title="The policy", title_justify="left")
    for result in results:
        table.add_row("held" if result.passed else "BROKEN", result.rule, result.told)
    Console(width=None if Console().is_terminal else 120).print(table)
