"""Helpers that read the files of a shop."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def splits_of(rows: Iterable[dict[str, Any]], key: Callable[[dict[str, Any]], Iterable[str]]) -> dict[str, set[str]]:
    """What `key` finds in a row -> the splits in which it is found."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for value in key(row):
            found[value].add(row["split"])
    return found


def only_in_one(found: dict[str, set[str]]) -> bool:
    return all(len(splits) == 1 for splits in found.values())
