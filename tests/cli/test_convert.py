"""`searchlora convert`: qrels for other tools, which keep their card, and never a partial file."""

from __future__ import annotations

import json

import pytest

from searchlora.eval.formats import read_qrels
from searchlora.eval.judgments.card import read_card


@pytest.fixture
def topics(tmp_path):
    path = tmp_path / "topics.jsonl"
    path.write_text('{"id": "7", "query": "red dress"}\n{"id": "8", "query": "jeans"}\n')
    return path


def test_ratings_of_opensearch_become_grades_of_topics_and_go_back(cli, topics, tmp_path):
    judged = {"judgmentRatings": [{"query": "jeans", "ratings": [{"docId": "a", "rating": "0.6"}]}]}
    (tmp_path / "coec.json").write_text(json.dumps(judged))
    qrels, again = tmp_path / "q.txt", tmp_path / "again.json"
    how = ("--thresholds", "0.25,0.5,0.75", "--topics", topics, "--judgments-source", "clicks")
    called = cli("convert", tmp_path / "coec.json", qrels, *how)
    assert called.code == 0 and "1 topics, 1 judgments" in called.out
    assert qrels.read_text() == "8 0 a 2\n" and read_card(qrels).source == "clicks"
    assert cli("convert", qrels, again, "--to", "opensearch", "--topics", topics).code == 0
    assert read_qrels(again) == {"jeans": {"a": 2}} and read_card(again).source == "clicks"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("bad.txt", "out"), "bad.txt, line 2: the grade 0.5 is not a whole number"),
        (("bad.txt", "out", "--thresholds", "high"), "'high' is not a list of numbers"),
        (("bad.txt", "out", "--thresholds", "2,1"), "do not rise"),
        (("none.txt", "out"), "there is no such file"),
        (("words.doc", "out"), "unknown format of qrels"),
        (("bad.txt", "out", "--to", "opensearch"), "Give --topics"),
        (("bad.txt", "out", "--judgments-source", "people"), "no source of judgments"),
    ],
)
def test_unusable_conversions_are_refused(refused, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.txt").write_text("1 0 a 1\n1 0 b 0.5\n")
    (tmp_path / "words.doc").write_text("some words\n")
    assert says in refused("convert", *arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.txt", "words.doc"]
