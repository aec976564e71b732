"""Judged topics of a server: given ones, and those that people grade."""

from __future__ import annotations

import json

import pytest

from searchlora.errors import UsageError
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


def test_a_query_that_was_graded_before_it_was_a_topic_is_that_topic(tmp_path, topics, qrels):
    early = SearchGrades(tmp_path / "grades")
    early.rate("red couch", "d9", 3, "anna", 1.0, [])
    early.close()
    grades = SearchGrades(tmp_path / "grades", topics, qrels)
    assert grades.topic("red couch") == "t1"
    assert grades.judged()[1] == {"t1": {"d1": 2, "d9": 3}}
    found = grades.of_search("red couch", [{"document": "d9"}, {"document": "d1"}])
    assert [hit["grade"] for hit in found["hits"]] == [3, 2]
    grades.close()


def test_of_several_topics_with_one_text_a_query_is_the_one_with_its_fields(tmp_path):
    """Turns of conversations: the same words after another history are another information need."""
    turns = {topic: [{"role": "user", "text": text}] for topic, text in (("t1", "tents"), ("t2", "couches"))}
    rows = [{"id": topic, "query": "is it red?", "history": history} for topic, history in turns.items()]
    path = tmp_path / "topics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "qrels.txt").write_text("t1 0 d1 2\nt2 0 d2 1\n", encoding="utf-8")
    grades = SearchGrades(tmp_path / "grades", path, tmp_path / "qrels.txt")
    for topic, history in turns.items():
        found = grades.of_search("is it red?", [{"document": "d1"}], {"history": history})
        assert (found["topic"], found["measured"]["value"]) == (topic, 1.0 if topic == "t1" else 0.0)
    saved = grades.rate("is it red?", "d1", 0, "anna", 1.0, [], {"history": turns["t2"]})
    assert (saved["topic"], grades.judged()[1]) == ("t2", {"t1": {"d1": 2}, "t2": {"d1": 0, "d2": 1}})
    own = grades.topic("is it red?")  # without a history, it is none of the two
    assert own == grades.topic("is it red?", {"history": []}) and own.startswith("q-")
    grades.close()


def test_the_same_words_after_another_history_are_another_query(tmp_path):
    turns = [{"history": [{"role": "user", "text": text}]} for text in ("tents", "couches")]
    grades = SearchGrades(tmp_path)
    ids = [grades.rate("is it red?", "d1", 2, "anna", 1.0, [], fields)["topic"] for fields in (None, *turns)]
    assert len(set(ids)) == 3 and ids[0] == grades.topic("is it red?", {"history": []})
    grades.rate("is it red?", "d1", 0, "anna", 1.0, [], turns[1])
    grades.close()
    again = SearchGrades(tmp_path)
    topics, judged = again.judged()
    assert topics == {ids[0]: {"query": "is it red?"}, ids[1]: {"query": "is it red?", **turns[0]}}
    assert judged == {ids[0]: {"d1": 2}, ids[1]: {"d1": 2}}
    assert [again.topic("is it red?", fields) for fields in (None, *turns)] == ids
    again.close()
    given = tmp_path / "given.jsonl"
    given.write_text(json.dumps({"id": "t1", "query": "is it red?", **turns[0]}) + "\n", encoding="utf-8")
    with_topics = SearchGrades(tmp_path, given)
    assert [with_topics.topic("is it red?", fields) for fields in turns] == ["t1", ids[2]]
    with_topics.close()


def test_a_grade_is_a_digit_as_on_the_scales_of_judges(tmp_path):
    grades = SearchGrades(tmp_path)
    assert grades.rate("red couch", "d1", 9, "anna", 1.0, [])["grade"] == 9
    for grade in (-1, 10):
        with pytest.raises(UsageError, match=f"{grade} is no grade.*Grades are 0 to 9, or null"):
            grades.rate("red couch", "d1", grade, "anna", 1.0, [])
    grades.close()


def test_without_a_folder_nothing_is_collected(topics, qrels):
    grades = SearchGrades(None, topics, qrels)
    assert not grades.collects
    assert grades.of_search("red couch", [{"document": "d1"}])["measured"]["value"] == 1
    with pytest.raises(UsageError, match="no grades are collected"):
        grades.rate("red couch", "d1", 1, "anna", 1.0, [])
    grades.close()
