"""The folds of the MT-RAG benchmark, and what is asked twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

import pytest

from benchmarks.rag_mtrag import answering
from benchmarks.rag_mtrag.data import FOLDS, MtRag
from searchlora.inference.engine import Completion, Request
from searchlora.task import load_prompted_task
from searchlora.tasks.rag_answer.choosing import TAKEN_OUT


@pytest.fixture(scope="module")
def mtrag(real_data: Path) -> MtRag:
    return MtRag.read(real_data)


def test_every_row_is_asked_once_by_an_adapter_that_never_saw_its_group(mtrag: MtRag, tmp_path: Path) -> None:
    asked = Counter(row["id"] for fold in range(FOLDS) for row in mtrag.test(fold))
    assert set(asked.values()) == {1}
    assert len(asked) == 429
    dataset = mtrag.dataset(0, tmp_path / "fold1")
    groups = {split: {row["group"] for row in dataset.records(split)} for split in ("train", "validation", "test")}
    assert not groups["test"] & (groups["train"] | groups["validation"])
    assert not groups["train"] & groups["validation"]
    assert TAKEN_OUT not in {row["kind"] for row in dataset.records("test")}
    assert TAKEN_OUT in {row["kind"] for row in dataset.records("train")}
    assert {row["id"] for row in dataset.records("test")} == {row["id"] for row in mtrag.test(0)}


class _Scripted:
    """An engine that says what it is told to, and remembers what it was asked."""

    def __init__(self, free: list[tuple[str, Literal["stop", "length"]]]) -> None:
        self.free = free
        self.asked: list[Request] = []

    def generate(self, requests: list[Request]) -> list[Completion]:
        self.asked += requests
        found = []
        for request in requests:
            text, finish = self.free.pop(0) if request.grammar is None else ("It is dry [1].", "stop")
            found.append(Completion(text, finish, 1, 1))
        return found


def test_only_what_breaks_the_form_is_written_again_and_nothing_twice(tmp_path: Path) -> None:
    task = load_prompted_task("rag_answer")
    rows = [{**task.examples[0], "id": name} for name in ("kept", "strange", "endless")]
    engine = _Scripted([("It is wet [2].", "stop"), ("It is wet [9].", "stop"), ("It is wet and wet", "length")])
    arguments = (task, engine, None, rows, tmp_path, 20, lambda *_: None)
    found = answering._asked(*arguments)  # type: ignore[arg-type]
    assert [request.grammar is not None for request in engine.asked] == [False, False, False, True]
    assert found.held["kept"].text == "It is wet [2]."
    assert found.held["strange"].text == "It is dry [1]."
    assert found.held["endless"] == found.free["endless"]
    assert "cites passage 9" in found.free["strange"].reason

    file = tmp_path / "base.free.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[:-1]) + lines[-1][:20], encoding="utf-8")
    engine.free = [("It is wet [2].", "stop")]
    again = answering._asked(*arguments)  # type: ignore[arg-type]
    assert len(engine.asked) == 5
    assert again.free["endless"].text == "It is wet [2]."
    assert answering._asked(*arguments) == again  # type: ignore[arg-type]
    assert len(engine.asked) == 5
