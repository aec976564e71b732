from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from searchlora.files import read_rows, strict
from searchlora.shop import make_shop

Rows = list[Mapping[str, Any]]


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's shop."""
    folder = tmp_path_factory.mktemp("made") / "shop"
    make_shop(folder)
    return folder


@pytest.fixture(scope="session")
def rows(shop: Path) -> Callable[[str], Rows]:
    """The rows of a file of the shop."""
    return lambda name: [row.data for row in strict(read_rows(shop / f"{name}.jsonl"))]


@pytest.fixture(scope="session")
def qrels(shop: Path) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for line in (shop / "qrels.txt").read_text(encoding="utf-8").splitlines():
        topic, _, document, grade = line.split()
        qrels.setdefault(topic, {})[document] = int(grade)
    return qrels


def in_one_split(rows: Rows, key: Callable[[Mapping[str, Any]], Iterable[str]]) -> bool:
    """Whether each value that `key` gives for a row occurs in one split only."""
    split_of: dict[str, str] = {}
    return all(split_of.setdefault(value, row["split"]) == row["split"] for row in rows for value in key(row))
