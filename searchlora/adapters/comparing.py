"""What differs between two versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from searchlora.adapters.stored import StoredAdapter

_COMPARED = ("task", "task_version", "base", "recipe", "trained", "evaluated", "dataset", "prompt_hash", "metrics")
_COMPARED_TOO = ("settings", "tuned", "training", "parents", "versions")


@dataclass(frozen=True)
class Diff:
    """The differences of two versions.

    Attributes:
        fields: Manifest field, its parts joined by dots, -> its two values; None where one lacks it.
        weights: ‖ΔW₁ - ΔW₂‖ / ‖ΔW₁‖ over all modules; None where they do not fit the same base.
    """

    first: str
    second: str
    fields: dict[str, tuple[Any, Any]]
    weights: float | None

    def __str__(self) -> str:
        lines = [f"{key}: {one!r} | {two!r}" for key, (one, two) in self.fields.items()]
        if self.weights is None:
            distance = "cannot be compared (the adapters do not fit the same base)"
        else:
            distance = f"relative distance {self.weights:.3g}"
        return "\n".join([f"{self.first} | {self.second}", *lines, f"weights: {distance}"])


def compare(first: StoredAdapter, second: StoredAdapter) -> Diff:
    """The manifest fields that differ, and how far apart the weights are."""
    from searchlora.adapters.weights import relative_distance

    one, two = _flat(_dump(first)), _flat(_dump(second))
    fields = {
        key: (one.get(key), two.get(key)) for key in sorted(one.keys() | two.keys()) if one.get(key) != two.get(key)
    }
    return Diff(first.reference, second.reference, fields, relative_distance(first.path, second.path))


def _dump(stored: StoredAdapter) -> dict[str, Any]:
    return stored.manifest.model_dump(include={*_COMPARED, *_COMPARED_TOO})


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found.update(_flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found
