"""The MT-RAG benchmark: folds, and the requests of scoring and generation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from math import log
from pathlib import Path
from typing import Any, Literal

import pytest

from benchmarks.rag_mtrag import answering, embedder, grading, squad_rows
from benchmarks.rag_mtrag.data import FOLDS, MtRag, fold_of
from benchmarks.rag_mtrag.judge import judge_records
from benchmarks.rag_mtrag.variants import Judge, Written, generated, quoted
from searchlora.adapters.store import Store
from searchlora.inference.engine import ChoiceScores, Completion, Request
from searchlora.inference.local import LocalEngine
from searchlora.models.resolve import BaseModel
from searchlora.outputs import InvalidOutput
from searchlora.records import Record
from searchlora.task import load_prompted_task
from searchlora.tasks.rag_answer.citations import with_marks
from searchlora.tasks.rag_answer.distractors import WITHOUT_GOLD
from tests.factories import random_adapter


@pytest.fixture(scope="module")
def mtrag(real_data: Path) -> MtRag:
    return MtRag.read(real_data)


@pytest.fixture(scope="module")
def squad(real_data: Path) -> list[Record]:
    return squad_rows.squad_rows(real_data, {1: 8, 3: 8})


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

    call_size = 1

    def __init__(self, completions: list[tuple[str, Literal["stop", "length"]]], abstentions: list[float]) -> None:
        self.completions, self.abstentions = completions, abstentions
        self.asked: list[Request] = []

    def generate(self, requests: list[Request]) -> list[Completion]:
        self.asked += requests
        return [Completion(*self.completions.pop(0), 1, 1) for _ in requests]

    def score(
        self, requests: list[Request], choices: Sequence[Sequence[str]], prune_margin: float | None
    ) -> list[ChoiceScores]:
        """Scripted abstention probabilities of the next requests."""
        del requests, prune_margin
        return [ChoiceScores((log(self.abstentions.pop(0)),), 1, 1) for _ in choices]


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
def test_squad_rows_contain_the_answer_span_in_half_of_the_cases(real_data: Path, squad: list[Record]) -> None:
    rows = squad
    assert Counter((len(row["passages"]), row["answerable"]) for row in rows) == {
        (length, answerable): 4 for length in (1, 3) for answerable in (True, False)
    }
    spans = squad_rows._spans(real_data / "squad" / "squaddev_v1.1.json.gz")
    for row in rows:
        ids = [passage["id"] for passage in row["passages"]]
        assert len(set(ids)) == len(ids)
        if row["answerable"]:
            (place,) = [place for place, each in enumerate(ids, start=1) if each in row["gold"]]
            assert row["answer"] == with_marks(f"{spans[row['id']]}.", [place])
            assert spans[row["id"]] in row["passages"][place - 1]["text"]


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
def test_the_judge_learns_from_pairs_of_both_kinds_and_none_of_mtrag(mtrag: MtRag, real_data: Path) -> None:
    records = judge_records(real_data)
    kinds = Counter((row["id"].partition("-")[0], row["grade"] >= 2) for row in records)
    assert all(kinds[source, relevant] > 250 for source in ("squad", "dl20", "perl") for relevant in (True, False))
    assert len({row["id"] for row in records}) == len(records)
    passages = {each["text"] for row in mtrag.official for each in row["passages"]}
    questions = {row["question"] for row in mtrag.official}
    assert not any(row["passage"] in passages or row["query"] in questions for row in records)


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
    task, rows = load_prompted_task("rag_answer"), made_rows()
    outputs, rules = quoted(task, Judge.of_all_folds(rows))
    assert set(outputs) == {row["id"] for row in rows}
    assert sum(outputs[row["id"]].abstained != row["answerable"] for row in rows) >= 75
    turned = [{**row, "answerable": not row["answerable"], "gold": []} if fold_of(row) == 0 else row for row in rows]
    again, changed = quoted(task, Judge.of_all_folds(turned))
    assert changed[0] == rules[0] and changed[1] != rules[1]
    assert all(again[row["id"]] == outputs[row["id"]] for row in rows if fold_of(row) == 0)


@pytest.mark.slow
def test_a_judge_that_was_trained_on_other_folds_is_tuned_on_its_validation_rows_only() -> None:
    task, rows = load_prompted_task("rag_answer"), made_rows()
    fits = [frozenset(str(row["id"]) for row in rows[::2] if fold_of(row) != fold) for fold in range(FOLDS)]
    _, rules = quoted(task, Judge([rows] * FOLDS, fits))
    assert [each["validation"]["rows"] for each in rules] == [len(each) for each in fits]
    spoilt = [{**row, "answerable": True, "gold": ["p2"]} if number % 2 else row for number, row in enumerate(rows)]
    assert quoted(task, Judge([spoilt] * FOLDS, fits))[1] == rules


@pytest.mark.slow
def test_systems_share_the_text_and_differ_in_who_decides() -> None:
    task, rows = load_prompted_task("rag_answer"), made_rows()
    own = {str(row["id"]): 0.9 if number % 2 else 0.1 for number, row in enumerate(rows)}
    text: dict[str, str | InvalidOutput] = {str(row["id"]): "It says so [3]." for row in rows}
    written, judge = Written(own, text, [own] * FOLDS, [{"abstain_from": 0.4}] * FOLDS), Judge.of_all_folds(rows)
    alone = generated(task, judge, written, abstain="answer", cite="answer")
    assert all(alone[id_].abstained == (score >= 0.4) for id_, score in own.items())
    judged = generated(task, judge, written, abstain="judge", cite="judge")
    both = generated(task, judge, written, abstain="both", cite="judge")
    assert sum(judged[row["id"]].abstained != row["answerable"] for row in rows) >= 75
    assert all(output.abstained or output.citations[0] == 1 for output in (*judged.values(), *both.values()))
    assert both["r0"].reason.startswith("both:")


@pytest.mark.slow
def test_every_row_is_scored_and_answered_by_the_adapter_of_its_fold(
    mtrag: MtRag,
    squad: list[Record],
    real_data: Path,
    tiny_base: BaseModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answering, "squad_rows", lambda _: squad)
    few = MtRag(mtrag.rows[::48], mtrag.rules, mtrag.counts)
    task, store = load_prompted_task("rag_answer"), Store(tmp_path / "store")
    made = [
        random_adapter(store, f"{answering.NAME}-{fold + 1}", task, tiny_base, tmp_path / f"made{fold}", seed=fold)
        for fold in range(FOLDS)
    ]
    adapters = iter(made * 2)
    monkeypatch.setattr(answering, "_trained", lambda *_: next(adapters))
    monkeypatch.setattr(answering, "_about", lambda _: {"seconds": 1})
    engine = LocalEngine(tiny_base, store)
    training: dict[str, Mapping[str, Any]] = {}
    arguments = (few, real_data, tmp_path, task, engine, store, 4, training, lambda _: lambda *_: None)
    written = answering._written(*arguments)  # type: ignore[arg-type]
    ids = {row["id"] for row in few.official}
    assert set(written.own) == set(written.text) == ids
    assert set(training) == {f"{answering.NAME}-{fold + 1}@1" for fold in range(FOLDS)}
    for fold, scores in enumerate(written.validation):
        assert scores and not set(scores) & {row["id"] for row in few.test(fold)}
    monkeypatch.setattr(engine, "score", None)  # everything is stored
    monkeypatch.setattr(engine, "generate", None)
    assert answering._written(*arguments) == written  # type: ignore[arg-type]


def test_grades_are_stored_and_an_incomplete_line_is_judged_again(tmp_path: Path) -> None:
    row = {"id": "r1", "question": "why", "passages": [{"id": "p0", "text": "so"}]}
    file = tmp_path / "judge@1.jsonl"
    whole = json.dumps({"key": grading._key(row), "grades": [{"id": "p0", "relevance": 0.5}]}) + "\n"
    file.write_text(whole + whole[:20], encoding="utf-8")
    assert grading._known(file) == {grading._key(row): [{"id": "p0", "relevance": 0.5}]}
    assert file.read_text(encoding="utf-8") == whole
    assert grading._key(row) != grading._key({**row, "question": "why not"})
