from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from searchlora.shop import make_shop


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "shop"
    make_shop(folder)
    return folder


@pytest.fixture(scope="session")
def records(shop: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (shop / "rewriting.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def corpus(shop: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (shop / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def vocabulary(shop: Path) -> dict[str, str]:
    entries: dict[str, str] = json.loads((shop / "vocabulary.json").read_text(encoding="utf-8"))
    return entries


@pytest.fixture(scope="session")
def qrels(shop: Path) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for line in (shop / "qrels.txt").read_text(encoding="utf-8").splitlines():
        topic, _, document, grade = line.split()
        found.setdefault(topic, {})[document] = int(grade)
    return found
