"""How rows are divided: numbers into thirds, queries by their traffic; and the order in which slices are shown."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

#: What the traffic slice is called, and its values in their order.
TRAFFIC = "traffic"
BANDS = ("head", "torso", "tail")

TRAFFIC_NOTE = (
    "Traffic: the head is the most frequent topics that carry the first third of the traffic, the torso those that "
    "carry the second, the tail the rest; topics asked equally often stay together."
)


def by_traffic(weights: Mapping[str, float]) -> dict[str, str]:
    """Row -> `head`, `torso` or `tail`.

    Rows stand by falling weight. One is in the head where the rows before it carry less than a third of all traffic,
    in the torso where they carry less than two thirds; rows of equal weight are in one band, whatever their order.
    """
    total = sum(weights.values())
    bands: dict[str, str] = {}
    before = passed = 0.0
    last = None
    for row in sorted(weights, key=lambda row: -weights[row]):
        if weights[row] != last:
            before, last = passed, weights[row]
        bands[row] = BANDS[0 if before < total / 3 else 1 if before < total * 2 / 3 else 2]
        passed += weights[row]
    return bands


def by_thirds(numbers: Mapping[str, float]) -> dict[str, str]:
    """Row -> the range of the third that its number lies in, for example `3 to 12`; equal numbers stay together."""
    first, second = np.quantile(list(numbers.values()), [1 / 3, 2 / 3], method="inverted_cdf")
    thirds: dict[int, dict[str, float]] = {}
    for row, number in numbers.items():
        thirds.setdefault(0 if number <= first else 1 if number <= second else 2, {})[row] = number
    return {
        row: f"{min(members.values()):g} to {max(members.values()):g}" for members in thirds.values() for row in members
    }


def shown_order(value: str) -> tuple[int, float, str]:
    """A sort key for the values of a slice: head, torso, tail; what begins with a number by that; then words."""
    if value in BANDS:
        return 0, BANDS.index(value), value
    number = re.match(r"-?\d+(\.\d+)?(e[+-]?\d+)?", value)
    return (1, float(number[0]), value) if number else (2, 0.0, value)
