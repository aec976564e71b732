"""The MT-RAG benchmark: folds, and the requests of scoring and generation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Literal

import pytest

from benchmarks.rag_mtrag import answering, warm
from benchmarks.rag_mtrag.data import FOLDS, MtRag
from benchmarks.rag_mtrag.warm import warm_dataset
from searchlora.inference.engine import Completion, Request, Scored
from searchlora.outputs import InvalidOutput
from searchlora.task import load_prompted_task
from searchlora.tasks.rag_answer.citations import with_marks
from searchlora.tasks.rag_answer.distractors import WITHOUT_GOLD


@pytest.fixture(scope="module")
def mtrag(real_data: Path) -> MtRag:
    return MtRag.read(real_data)


@pytest.mark.slow
def test_every_row_is_answered_once_by_an_adapter_not_trained_on_its_group(mtrag: MtRag, tmp_path: Path) -> None:
    asked = Counter(row["id"] for fold in range(FOLDS) for row in mtrag.test(fold))
    assert set(asked.values()) == {1}
    assert len(asked) == 429
    dataset = mtrag.dataset(0, tmp_path / "fold1")
    groups = {split: {row["group"] for row in dataset.records(split)} for split in ("train", "validation", "test")}
    assert not groups["test"] & (groups["train"] | groups["validation"])
    assert not groups["train"] & groups["validation"]
    assert WITHOUT_GOLD not in {row["kind"] for row in dataset.records("test")}
    assert WITHOUT_GOLD in {row["kind"] for row in dataset.records("train")}
    assert {row["id"] for row in dataset.records("test")} == {row["id"] for row in mtrag.test(0)}


class _Scripted:
    """An engine with scripted completions that records its requests."""

    def __init__(self, completions: list[tuple[str, Literal["stop", "length"]]], abstentions: list[float]) -> None:
        self.completions, self.abstentions = completions, abstentions
        self.asked: list[Request] = []

    def generate(self, requests: list[Request]) -> list[Completion]:
        self.asked += requests
        return [Completion(*self.completions.pop(0), 1, 1) for _ in requests]

    def score(
        self, requests: list[Request], choices: Sequence[Sequence[str]], prune_margin: float | None
    ) -> list[Scored]:
        """Scripted abstention probabilities of the next requests."""
        del requests, prune_margin
        return [Scored((log(self.abstentions.pop(0)),), 1, 1) for _ in choices]


def test_rows_without_abstention_are_generated_and_no_request_is_repeated(tmp_path: Path) -> None:
    task = load_prompted_task("rag_answer")
    rows = [{**task.examples[0], "id": name} for name in ("kept", "endless", "quiet")]
    engine = _Scripted([("It is wet [2].", "stop"), ("It is wet and wet", "length")], [0.1, 0.1, 0.9])
    arguments = (task, engine, None, rows, tmp_path, 20, lambda *_: None)
    found = answering._asked(*arguments)  # type: ignore[arg-type]
    assert found["kept"].text == "It is wet [2]."
    assert isinstance(found["endless"], InvalidOutput)
    assert found["quiet"].abstained
    assert len(engine.asked) == 2

    file = tmp_path / "base.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[:-1]) + lines[-1][:20], encoding="utf-8")
    engine.completions, engine.abstentions = [("It is dry [1].", "stop")], [0.2]
    again = answering._asked(*arguments)  # type: ignore[arg-type]
    assert again["kept"] == found["kept"]
    assert again["quiet"].text == "It is dry [1]."
    assert answering._asked(*arguments) == again  # type: ignore[arg-type]
    assert len(engine.asked) == 3


@pytest.mark.slow
def test_pretraining_rows_contain_the_answer_span_in_half_of_the_cases(real_data: Path, tmp_path: Path) -> None:
    dataset = warm_dataset(real_data, tmp_path / "warm", {1: 8, 3: 8})
    rows = [*dataset.records("train"), *dataset.records("validation")]
    assert Counter((len(row["passages"]), row["answerable"]) for row in rows) == {
        (length, answerable): 4 for length in (1, 3) for answerable in (True, False)
    }
    spans = warm._spans(real_data / "squad" / "squaddev_v1.1.json.gz")
    for row in rows:
        ids = [passage["id"] for passage in row["passages"]]
        assert len(set(ids)) == len(ids)
        if row["answerable"]:
            (place,) = [place for place, each in enumerate(ids, start=1) if each in row["gold"]]
            assert row["answer"] == with_marks(f"{spans[row['id']]}.", [place])
            assert spans[row["id"]] in row["passages"][place - 1]["text"]
