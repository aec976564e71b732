"""Judged topics of a server: given ones, those that people grade, and whose grades count as people's."""

from __future__ import annotations

import json

import pytest

from searchlora.errors import UsageError
from searchlora.eval.judgments.card import JudgmentsCard, write_judgments
from searchlora.server.grading.search_grades import SearchGrades


@pytest.fixture
def topics(tmp_path):
    path = tmp_path / "topics.jsonl"
    rows = [{"id": "t1", "query": "red couch", "turn": 3}, {"id": "t2", "query": "tent"}, {"id": "t3", "query": "lamp"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def qrels(tmp_path):
    path = tmp_path / "qrels.txt"
    path.write_text("t1 0 d1 2\nt2 0 d2 0\nother 0 d1 1\n", encoding="utf-8")
    return path


def test_topics_count_as_judged_once_a_document_is_relevant(tmp_path, topics, qrels):
    grades = SearchGrades(tmp_path / "grades", topics, qrels)
    assert grades.judged() == ({"t1": {"query": "red couch", "turn": 3.0}}, {"t1": {"d1": 2}})
    grades.rate("tent", "d2", 3, "anna", 1.0, [])
    new = grades.rate("green chair", "d9", 1, "anna", 1.0, [])["topic"]
    found, judgments = grades.judged()
    assert set(found) == {"t1", "t2", new} and found[new] == {"query": "green chair"}
    assert judgments["t2"] == {"d2": 3}
    grades.close()
    assert set(SearchGrades(tmp_path / "grades", topics, qrels).judged()[0]) == {"t1", "t2", new}


def test_grades_of_people_are_those_of_raters_and_of_human_judgments(tmp_path, topics, qrels):
    grades = SearchGrades(tmp_path / "grades", topics, qrels)
    grades.rate("red couch", "d1", 0, "anna", 1.0, [])
    grades.rate("red couch", "d1", 0, "ben", 1.0, [])
    assert [(each.topic, each.document, each.grade, each.raters) for each in grades.human_grades()] == [
        ("t1", "d1", 0, ("anna", "ben")),
        ("t2", "d2", 0, ()),
    ]
    judged = tmp_path / "llm.txt"
    write_judgments(judged, {"t1": {"d1": 2}}, JudgmentsCard("llm", "2026-07-01", judge="judge@1"))
    assert SearchGrades(None, topics, judged).human_grades() == []


def test_without_a_folder_nothing_is_collected(topics, qrels):
    grades = SearchGrades(None, topics, qrels)
    assert not grades.collects
    assert grades.of_search("red couch", [{"document": "d1"}])["measured"]["value"] == 1
    with pytest.raises(UsageError, match="no grades are collected"):
        grades.rate("red couch", "d1", 1, "anna", 1.0, [])
    grades.close()
