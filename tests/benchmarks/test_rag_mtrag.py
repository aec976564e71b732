"""The MT-RAG benchmark: no adapter and no threshold of a row was trained or fitted on its group."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.rag_mtrag import embedder
from benchmarks.rag_mtrag.data import FOLDS, MtRag, fold_of
from benchmarks.rag_mtrag.quoting import Judge, quoted
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


def made_rows(count: int = 90) -> list[dict[str, object]]:
    """Rows whose best passage is graded high where they are answerable, except one in nine."""
    rows = []
    for number in range(count):
        answerable = number % 3 > 0
        high = (0.8 if answerable != (number % 9 == 4) else 0.2) + number / 1000
        passages = [{"id": f"p{place}", "text": f"Passage {place} says so."} for place in range(3)]
        grades = [{"id": "p0", "relevance": high}, {"id": "p1", "relevance": high / 2}, {"id": "p2", "relevance": 0.01}]
        rows.append(
            {
                "id": f"r{number}",
                "group": f"g{number}",
                "question": "What does it say?",
                "passages": passages,
                "grades": grades,
                "answerable": answerable,
                "gold": ["p0"] if answerable else [],
            }
        )
    return rows


@pytest.mark.slow
def test_thresholds_of_a_fold_do_not_depend_on_its_rows() -> None:
    task, rows = load_generation_task("rag_answer"), made_rows()
    outputs, rules = quoted(task, Judge.of_all_folds(rows))
    assert set(outputs) == {row["id"] for row in rows}
    assert sum(outputs[row["id"]].abstained != row["answerable"] for row in rows) >= 75
    turned = [{**row, "answerable": not row["answerable"], "gold": []} if fold_of(row) == 0 else row for row in rows]
    again, changed = quoted(task, Judge.of_all_folds(turned))
    assert changed[0] == rules[0] and changed[1] != rules[1]
    assert all(again[row["id"]] == outputs[row["id"]] for row in rows if fold_of(row) == 0)


@pytest.mark.slow
def test_a_judge_that_was_trained_on_other_folds_is_tuned_on_its_validation_rows_only() -> None:
    task, rows = load_generation_task("rag_answer"), made_rows()
    fits = [frozenset(str(row["id"]) for row in rows[::2] if fold_of(row) != fold) for fold in range(FOLDS)]
    _, rules = quoted(task, Judge([rows] * FOLDS, fits))
    assert [each["validation"]["rows"] for each in rules] == [len(each) for each in fits]
    spoilt = [{**row, "answerable": True, "gold": ["p2"]} if number % 2 else row for number, row in enumerate(rows)]
    assert quoted(task, Judge([spoilt] * FOLDS, fits))[1] == rules
