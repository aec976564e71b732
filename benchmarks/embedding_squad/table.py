"""What training took, LoRA and full fine-tuning side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.embedding_squad.measuring import FULL, LORA, Fold
from searchlora.eval.formatting import markdown_table

_COLUMNS = ("", "parameters trained", "share", "peak memory, GB", "training, s", "on disk, MB")


def trained_rows(trained: Sequence[tuple[str, Fold]]) -> list[dict[str, Any]]:
    """The rows of the results file, a figure each."""
    rows = []
    for title, fold in trained:
        for system, told in _systems(fold).items():
            for measure, value in told.items():
                label = f"{title}, {system}"
                rows.append({"system": label, "measure": measure, "value": value, "low": None, "high": None, "n": 1})
    return rows


def trained_table(trained: Sequence[tuple[str, Fold]]) -> str:
    """Markdown; folds of a collection are rows of their own."""
    rows = []
    for title, fold in trained:
        for system, told in _systems(fold).items():
            rows.append(
                [
                    f"{title}, {system}",
                    f"{told['parameters trained']:,.0f}",
                    f"{told['share']:.1%}",
                    f"{told['peak memory, GB']:.2f}",
                    f"{told['training, s']:.0f}",
                    f"{told['on disk, MB']:.1f}",
                ]
            )
    return markdown_table(_COLUMNS, rows)


def _systems(fold: Fold) -> dict[str, dict[str, float]]:
    adapter = (fold.adapter.path / "adapter_model.safetensors").stat().st_size
    model = sum(file.stat().st_size for file in fold.model.rglob("*.safetensors"))
    return {LORA: _told(fold.adapter.manifest.training, adapter), FULL: _told(fold.about["training"], model)}


def _told(training: Mapping[str, Any], size: int) -> dict[str, float]:
    return {
        "parameters trained": training["parameters_trained"],
        "share": training["parameters_trained"] / training["parameters"],
        "peak memory, GB": training["peak_memory_gb"],
        "training, s": training["seconds"],
        "on disk, MB": size / 1e6,
    }
