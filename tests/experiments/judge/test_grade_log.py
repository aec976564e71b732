"""Grades that lie on disk from a stopped run come back as they were, with their reasons."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.experiments.judge.grade_log import grade_records
from searchlora.experiments.judge.llm_judge import Judge, load_judge
from searchlora.outputs import Grade, InvalidOutput
from searchlora.progress import silent

PAIRS = [
    {"id": f"t d{n}", "group": "t", "query": "a tent", "passage": f"It sleeps {n}.", "title": ""} for n in range(2)
]


@pytest.fixture
def judge(tiny_base, tmp_path) -> Judge:
    """A bare base that is asked for reasons by a dataset's settings."""
    rows = tmp_path / "rows.jsonl"
    told = ({**pair, "grade": grade, "reason": "Why."} for pair, grade in zip(PAIRS, (1, 2), strict=True))
    rows.write_text("\n".join(map(json.dumps, told)), encoding="utf-8")
    build("judgment", rows, format="native", out=tmp_path / "data", options={"reason": "yes"}, shares=(1.0, 0.0, 0.0))
    asked = {"adapter": None, "base": str(tiny_base.path), "task": "judgment", "settings": tmp_path / "data"}
    return load_judge(**asked, generate=False, store=Store(tmp_path / "store"))


def test_reasons_are_kept_with_their_grades(judge, tmp_path):
    assert judge.max_new_tokens == 80
    longer = replace(judge, max_new_tokens=1300)
    found = grade_records(longer, PAIRS, tmp_path / "kept", silent)
    assert all(isinstance(each, Grade) and each.reason and each.probabilities for each in found)
    nobody = replace(longer, engine=None)
    assert grade_records(nobody, PAIRS, tmp_path / "kept", silent) == found


def test_grades_kept_before_there_were_reasons_are_taken(judge, tmp_path):
    rows = [
        {"key": judge.key(PAIRS[0]), "grade": 1, "probabilities": [0.1, 0.6, 0.2, 0.1]},
        {"key": judge.key(PAIRS[1]), "invalid": {"raw": "x", "reason": "not a grade of the scale"}},
    ]
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "grades.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = grade_records(replace(judge, engine=None), PAIRS, tmp_path / "kept", silent)
    assert found == [Grade(1, (0.1, 0.6, 0.2, 0.1)), InvalidOutput("x", "not a grade of the scale")]
