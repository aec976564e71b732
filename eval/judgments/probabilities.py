"""The probability that a judge gave each grade, as JSON lines beside its qrels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from searchlora.errors import DataError
from searchlora.eval.files import atomic_text, numbered_lines

#: topic -> document -> grade -> probability
Probabilities: TypeAlias = Mapping[str, Mapping[str, Mapping[int, float]]]


def write_probabilities(path: str | Path, probabilities: Probabilities) -> None:
    """Write a line for each pair: `{"topic": ..., "document": ..., "probabilities": {"0": 0.2, ...}}`."""
    with atomic_text(Path(path)) as out:
        for topic, documents in probabilities.items():
            for document, grades in documents.items():
                row = {"topic": topic, "document": document, "probabilities": dict(grades)}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_probabilities(path: str | Path) -> dict[str, dict[str, dict[int, float]]]:
    """Read what `write_probabilities` wrote. Raises `DataError` naming the line that is none of it."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for number, line in numbered_lines(Path(path)):
        try:
            row = json.loads(line)
            grades = {int(grade): float(value) for grade, value in row["probabilities"].items()}
            found.setdefault(row["topic"], {})[row["document"]] = grades
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError("is not a row of probabilities", where=f"{path}, line {number}") from None
    return found
