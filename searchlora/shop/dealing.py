"""How rows and topics are divided among the splits, and how different rows are gathered."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from random import Random
from typing import Any

#: Split -> share of the product families, of the topics and of the rows, in per cent.
SPLITS = {"train": 70, "validation": 10, "test": 20}

#: Draws without a new row after which a writer is taken to have no more to give.
_PATIENCE = 500

_WORD = re.compile(r"\w+")


def portions(total: int, shares: Mapping[str, int]) -> dict[str, int]:
    """`total` divided by shares of 100 and rounded down; what is left over goes to the first."""
    divided = {name: total * share // 100 for name, share in shares.items()}
    divided[next(iter(shares))] += total - sum(divided.values())
    return divided


def deal(topics: Iterable[str], *, seed: str) -> dict[str, list[str]]:
    """Topics dealt to the splits by their shares, rounded up for validation and test."""
    shuffled = list(topics)
    Random(seed).shuffle(shuffled)
    total = len(shuffled)
    dealt: dict[str, list[str]] = {}
    for split in ("test", "validation"):
        count = math.ceil(total * SPLITS[split] / 100)
        dealt[split], shuffled = shuffled[:count], shuffled[count:]
    return {"train": shuffled, **dealt}


def distinct(
    write: Callable[[], dict[str, Any] | None],
    quota: int,
    seen: set[tuple[str, ...]],
    *,
    shown: Callable[[dict[str, Any]], str] = itemgetter("query"),
) -> list[dict[str, Any]]:
    """At most `quota` rows, none that shows the same words as another one or one in `seen`, which grows."""
    found: list[dict[str, Any]] = []
    idle = 0
    while len(found) < quota and idle < _PATIENCE:
        row = write()
        words = tuple(sorted(_WORD.findall(shown(row).lower()))) if row else ()
        if row is None or words in seen:
            idle += 1
            continue
        idle = 0
        seen.add(words)
        found.append(row)
    return found
