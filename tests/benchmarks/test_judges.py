"""Outputs of the benchmarks on disk: those of an interrupted run are reused for the same judge and prompt."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from benchmarks import judges
from benchmarks.judges import answered
from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.experiments import task_model
from searchlora.experiments.judge.llm_judge import Judge, load_judge
from searchlora.outputs import Grade
from searchlora.progress import silent
from searchlora.prompts import RENDERING

PAIRS = [
    {"id": f"t d{n}", "group": "t", "query": "a tent", "passage": f"It sleeps {n}.", "title": ""} for n in range(2)
]

#: An engine without a method: whatever asks it fails.
UNASKED = SimpleNamespace(call_size=1)


@pytest.fixture
def judge(tiny_base, tmp_path) -> Judge:
    """A bare base whose settings, from a dataset, ask for reasons."""
    rows = tmp_path / "rows.jsonl"
    records = ({**pair, "grade": grade, "reason": "Why."} for pair, grade in zip(PAIRS, (1, 2), strict=True))
    rows.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    build(
        "judgment",
        rows,
        format="native",
        out=tmp_path / "data",
        options={"reason": "yes"},
        split_ratios=(1.0, 0.0, 0.0),
    )
    return _load(tiny_base, tmp_path)


def _load(base, folder) -> Judge:
    settings = folder / "data"
    return load_judge(
        adapter=None,
        base=str(base.path),
        task="judgment",
        settings=settings,
        generate=False,
        store=Store(folder / "store"),
    )


@pytest.mark.slow
def test_reasons_are_logged_with_their_grades(judge, tmp_path):
    assert judge.max_new_tokens == 80
    longer = replace(judge, max_new_tokens=1300)
    grades = answered(longer, PAIRS, tmp_path / "log", silent)
    assert all(isinstance(each, Grade) and each.reason and each.probabilities for each in grades)
    unasked = replace(longer, engine=UNASKED)
    assert answered(unasked, PAIRS, tmp_path / "log", silent) == grades


def test_grades_of_another_text_or_rendering_version_are_not_reused(judge, tiny_base, monkeypatch, tmp_path):
    """The same chat may render to other token ids under another version of the renderer."""
    asked = []
    monkeypatch.setattr(Judge, "ask", lambda _, records: asked.append(records) or [Grade(1)] * len(records))
    others = [{**PAIRS[0], "passage": "It sleeps nobody."}, PAIRS[1]]
    for records in (PAIRS, PAIRS, others, others):
        answered(judge, records, tmp_path / "log", silent)
    assert asked == [PAIRS, others]
    monkeypatch.setattr(task_model, "RENDERING", RENDERING + 1)
    answered(_load(tiny_base, tmp_path), PAIRS, tmp_path / "log", silent)
    assert asked == [PAIRS, others, PAIRS]


def test_grades_depend_neither_on_the_order_of_the_pairs_nor_on_an_interruption(tmp_path, monkeypatch):
    """As in bf16, where the other rows of a batch, and the row's place in it, change the last digits of a score."""
    monkeypatch.setattr(judges, "BATCH_SIZE", 32)
    records = [{"id": f"{number:02}"} for number in range(90)]
    batches: list[int] = []

    def coupled(batch):
        if len(batches) == stop:
            raise KeyboardInterrupt
        batches.append(len(batch))
        return [Grade(1, (n / 100, 1 - n / 100)) for n, _ in enumerate(batch)]

    judge = SimpleNamespace(engine=UNASKED, key="", ask=coupled)

    def grades(order, name):
        found = answered(judge, order, tmp_path / name, silent)
        return {record["id"]: grade for record, grade in zip(order, found, strict=True)}

    stop = None
    expected = grades(records, "forward")
    assert grades(records[::-1], "backward") == expected
    stop, batches[:] = 2, []
    with pytest.raises(KeyboardInterrupt):
        grades(records, "resumed")
    stop = None
    assert grades(records[::-1], "resumed") == expected
    assert batches == [32, 32, 26]
