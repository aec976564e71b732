"""The pairs to judge, pooled or from a file, with their texts."""

from __future__ import annotations

import json

import pytest

from searchlora.errors import DataError, UsageError
from searchlora.eval.trec import write_run
from searchlora.experiments.judge.pairs import load_texts, pairs_to_judge

ROWS = [{"id": "d1", "text": "one", "title": "One"}, {"id": "d2", "text": "two"}, {"id": "d3", "text": "three"}]


@pytest.fixture
def topics(tmp_path):
    path = tmp_path / "topics.jsonl"
    path.write_text('{"id": "1", "query": "a query", "narrative": "more"}\n', encoding="utf-8")
    return path


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_pairs_come_from_runs_or_a_file_but_not_both(tmp_path):
    run, file = tmp_path / "run.trec", tmp_path / "pairs.txt"
    write_run(run, {"1": {"d1": 2.0, "d2": 1.0}}, "tag")
    file.write_text("1 d2\n1 d1\n", encoding="utf-8")
    assert list(pairs_to_judge([run], 1, None)["1"]) == ["d1"]
    assert set(pairs_to_judge([run], 2, None)["1"]) == {"d1", "d2"}
    assert list(pairs_to_judge([], 1, file)["1"]) == ["d2", "d1"]
    for runs, pairs in (([], None), ([run], file)):
        with pytest.raises(UsageError, match=r"a pool of runs or a file of pairs.*one of the two"):
            pairs_to_judge(runs, 1, pairs)


def test_texts_are_joined_from_topics_and_corpus(topics, corpus):
    first, second = load_texts({"1": ["d2", "d1"]}, topics, corpus)
    assert (first.query, first.document.text, first.document.title) == ("a query", "two", "")
    assert (second.topic_fields["narrative"], second.document.text, second.document.title) == ("more", "one", "One")


def test_missing_and_duplicate_entries_are_named(topics, corpus):
    with pytest.raises(DataError, match=r"2 documents of the pairs not found \(d8, d9\)") as caught:
        load_texts({"1": ["d1", "d8", "d9"]}, topics, corpus)
    assert caught.value.where == str(corpus)
    with pytest.raises(DataError, match=r"1 topic of the pairs not found \(2\)") as caught:
        load_texts({"1": ["d1"], "2": ["d1"]}, topics, corpus)
    assert caught.value.where == str(topics)
    with corpus.open("a", encoding="utf-8") as more:
        more.write(json.dumps(ROWS[0]) + "\n")
    with pytest.raises(DataError, match="document d1 is repeated"):
        load_texts({"1": ["d1"]}, topics, corpus)
