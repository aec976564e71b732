"""Training costs of LoRA and full fine-tuning, as rows and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.common import COSTS, single_row, training_costs
from benchmarks.embedding_squad.measuring import FULL, LORA, Fold
from searchlora.eval.formatting import markdown_table


def trained_rows(trained: Sequence[tuple[str, Fold]]) -> list[dict[str, Any]]:
    """The rows of the results file, one figure each."""
    return [single_row(system, *cost) for system, costs in _systems(trained) for cost in costs.items()]


def trained_table(trained: Sequence[tuple[str, Fold]]) -> str:
    """Markdown table with a row for each fold and system."""
    rows = []
    for system, costs in _systems(trained):
        rows.append([system, *(f"{costs[cost]:{digits}}" for cost, digits in COSTS.items())])
    return markdown_table(["", *COSTS], rows)


def _systems(trained: Sequence[tuple[str, Fold]]) -> Iterator[tuple[str, dict[str, float]]]:
    for title, fold in trained:
        for name, stored in ((LORA, fold.adapter), (FULL, fold.model)):
            yield f"{title}, {name}", training_costs(stored)
