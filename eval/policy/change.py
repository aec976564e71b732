"""How a policy differs from the one that was held before, key by key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """Each key whose value is another, in words: `slices.kind.largest_fall was 0.03, is 0.1`.

    Args:
        then, now: Policies as `Policy.model_dump(mode="json")` gives them. A key without a value is one that is not
            set, so a policy kept before a key was known is the same as one that leaves it out.
    """
    old, new = dict(_leaves(then)), dict(_leaves(now))
    return tuple(
        f"{key} was {old.get(key, 'not set')}, is {new.get(key, 'not set')}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    )


def _leaves(part: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in part.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{above}{key}.")
        elif value is not None:
            yield f"{above}{key}", value
