"""The labels of LLMJudge."""

from __future__ import annotations

from pathlib import Path

import pytest

from searchlora.eval.formats import read_qrels


def human(data: Path) -> dict[str, dict[str, int]]:
    return read_qrels(_there(data / "llmjudge" / "human_test_qrels.txt"))


def judge(data: Path, name: str) -> dict[str, dict[str, int]]:
    return read_qrels(_there(data / "llmjudge" / "judges" / f"{name}.txt"))


def _there(path: Path) -> Path:
    if not path.is_file():
        pytest.skip(f"no {path.name} of LLMJudge")
    return path
