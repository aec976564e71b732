"""The probability that a judge gave each grade, and its reason if it gave one, as JSON lines beside its qrels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from searchlora.errors import DataError
from searchlora.eval.files import atomic_text, numbered_lines

#: topic -> document -> grade -> probability
Probabilities: TypeAlias = Mapping[str, Mapping[str, Mapping[int, float]]]


def write_probabilities(
    path: str | Path, probabilities: Probabilities, reasons: Mapping[tuple[str, str], str] | None = None
) -> None:
    """Write a line for each pair: `{"topic": ..., "document": ..., "probabilities": {"0": 0.2, ...}}`.

    Args:
        reasons: Of pairs (topic, document) that have one; it goes into their line as `reason`.
    """
    with atomic_text(Path(path)) as out:
        for topic, documents in probabilities.items():
            for document, grades in documents.items():
                reason = (reasons or {}).get((topic, document))
                row = {"topic": topic, "document": document, "probabilities": dict(grades)}
                row |= {"reason": reason} if reason is not None else {}
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
