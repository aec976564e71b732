"""The MT-RAG benchmark: no adapter and no threshold of a row was trained or fitted on its group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.rag_mtrag import embedder
from benchmarks.rag_mtrag.__main__ import quoted
from benchmarks.rag_mtrag.data import FOLDS, MtRag, fold_of
from benchmarks.rag_written.__main__ import answers
from searchlora.task import load_generation_task
from searchlora.tasks.rag_answer.distractors import WITHOUT_GOLD


@pytest.fixture(scope="module")
def mtrag(real_data: Path) -> MtRag:
    return MtRag.read(real_data)


@pytest.mark.slow
def test_every_row_is_tested_once(mtrag: MtRag) -> None:
    tested = Counter(row["id"] for fold in range(FOLDS) for row in mtrag.test(fold))
    assert set(tested.values()) == {1}
    assert len(tested) == 429
    assert WITHOUT_GOLD not in {row["kind"] for row in mtrag.official}


@pytest.mark.slow
def test_the_embedder_of_a_fold_sees_no_row_of_it(mtrag: MtRag) -> None:
    for fold in range(FOLDS):
        pairs = list(embedder._pairs(mtrag.training(fold), fold))
        assert not {each["id"] for each in pairs} & {row["id"] for row in mtrag.test(fold)}
        trained = {each["group"] for each in pairs if each["split"] == "train"}
        groups = {row["id"]: row["group"] for row in mtrag.official}
        assert not trained & {groups[id_] for id_ in mtrag.validation(fold)}
        assert not mtrag.validation(fold) & {row["id"] for row in mtrag.test(fold)}
        assert all(each["positives"] and each["negatives"] for each in pairs)


@pytest.mark.slow
def test_an_adapter_that_writes_sees_no_row_of_its_fold(mtrag: MtRag) -> None:
    for fold in range(FOLDS):
        tested = mtrag.test(fold)
        rows = answers(mtrag, fold)
        assert not {row["group"] for row in rows} & {row["group"] for row in tested}
        assert all(row["answerable"] and row["answer"] for row in rows)


def encode(texts: Sequence[str]) -> NDArray[np.float32]:
    """Vectors of length 1 whose cosine with that of a question is the number at the end of the text."""
    cosines = np.array([float(text.split()[-1]) if text.split()[-1][0].isdigit() else 1.0 for text in texts])
    return np.column_stack([cosines, np.sqrt(1 - cosines**2)]).astype(np.float32)


def made_rows(count: int = 90) -> list[dict[str, object]]:
    """Rows whose best passage is near to the question where they are answerable, except one in nine."""
    rows = []
    for number in range(count):
        answerable = number % 3 > 0
        high = (0.8 if answerable != (number % 9 == 4) else 0.2) + number / 1000
        texts = [f"It says {cosine}" for cosine in (high, high / 2, 0.01)]
        rows.append(
            {
                "id": f"r{number}",
                "group": f"g{number}",
                "question": "What does it say?",
                "passages": [{"id": f"p{place}", "text": text} for place, text in enumerate(texts)],
                "answerable": answerable,
                "answer": "It says so.",
                "gold": ["p0"] if answerable else [],
            }
        )
    return rows


@pytest.mark.slow
def test_what_is_learned_for_a_fold_does_not_depend_on_its_rows() -> None:
    task, rows = load_generation_task("rag_answer"), made_rows()
    fits = [frozenset(str(row["id"]) for row in rows if fold_of(row) != fold) for fold in range(FOLDS)]
    outputs, rules = quoted(task, rows, [encode] * FOLDS, fits)
    assert set(outputs) == {row["id"] for row in rows}
    assert sum(outputs[row["id"]].abstained != row["answerable"] for row in rows) >= 75
    turned = [{**row, "answerable": not row["answerable"], "gold": []} if fold_of(row) == 0 else row for row in rows]
    again, changed = quoted(task, turned, [encode] * FOLDS, fits)
    assert changed[0] == rules[0] and changed[1] != rules[1]
    assert all(again[row["id"]] == outputs[row["id"]] for row in rows if fold_of(row) == 0)
    spoilt = [{**row, "gold": ["p2"]} if row["id"] not in fits[1] else row for row in rows]
    assert quoted(task, spoilt, [encode] * FOLDS, fits)[1][1] == rules[1]
