"""Training costs of LoRA and full fine-tuning, as rows and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.embedding_squad.measuring import FULL, LORA, Fold
from searchlora.eval.formatting import markdown_table

_COLUMNS = ("", "parameters trained", "share", "peak memory, GB", "training, s", "on disk, MB")


def trained_rows(trained: Sequence[tuple[str, Fold]]) -> list[dict[str, Any]]:
    """The rows of the results file, one figure each."""
    rows = []
    for title, fold in trained:
        for system, costs in _systems(fold).items():
            for measure, value in costs.items():
                label = f"{title}, {system}"
                rows.append({"system": label, "measure": measure, "value": value, "low": None, "high": None, "n": 1})
    return rows


def trained_table(trained: Sequence[tuple[str, Fold]]) -> str:
    """Markdown table with a row for each fold and system."""
    rows = []
    for title, fold in trained:
        for system, costs in _systems(fold).items():
            rows.append(
                [
                    f"{title}, {system}",
                    f"{costs['parameters trained']:,.0f}",
                    f"{costs['share']:.1%}",
                    f"{costs['peak memory, GB']:.2f}",
                    f"{costs['training, s']:.0f}",
                    f"{costs['on disk, MB']:.1f}",
                ]
            )
    return markdown_table(_COLUMNS, rows)


def _systems(fold: Fold) -> dict[str, dict[str, float]]:
    return {
        name: _costs(stored.manifest.training, stored.weight_bytes)
        for name, stored in ((LORA, fold.adapter), (FULL, fold.model))
    }


def _costs(training: Mapping[str, Any], size: int) -> dict[str, float]:
    return {
        "parameters trained": training["parameters_trained"],
        "share": training["parameters_trained"] / training["parameters"],
        "peak memory, GB": training["peak_memory_gb"],
        "training, s": training["seconds"],
        "on disk, MB": size / 1e6,
    }
