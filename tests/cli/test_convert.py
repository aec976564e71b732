"""`searchlora convert`: reports what it read and wrote, and never leaves a partial file."""

from __future__ import annotations

import json

import pytest

from searchlora.eval.formats import read_qrels, read_run, read_topics


@pytest.fixture
def qrels(tmp_path):
    path = tmp_path / "qrels.txt"
    path.write_text("7 0 a 3\n7 0 b 0\n8 0 c 1\n")
    return path


@pytest.fixture
def topics(tmp_path):
    path = tmp_path / "topics.jsonl"
    path.write_text('{"id": "7", "query": "red dress", "searches": 12}\n{"id": "8", "query": "jeans", "searches": 3}\n')
    return path


@pytest.mark.slow
def test_qrels_round_trip(cli, qrels, tmp_path):
    for name in ("q.tsv", "q.parquet", "q.json", "q.jsonl.gz"):
        called = cli("convert", "qrels", qrels, tmp_path / name)
        assert called.code == 0, called.err
        assert f"Read {qrels} (trec): 2 topics, 3 judgments." in called.out
        assert f"Wrote {tmp_path / name} (" in called.out
        assert cli("convert", "qrels", tmp_path / name, tmp_path / "back.txt").code == 0
        assert (tmp_path / "back.txt").read_text() == qrels.read_text()


def test_qrels_by_query_text_and_with_thresholds(cli, topics, tmp_path):
    judged = {"judgmentRatings": [{"query": "jeans", "ratings": [{"docId": "a", "rating": "0.6"}]}]}
    (tmp_path / "coec.json").write_text(json.dumps(judged))
    called = cli(
        "convert",
        "qrels",
        tmp_path / "coec.json",
        tmp_path / "q.txt",
        "--thresholds",
        "0.25,0.5,0.75",
        "--topics",
        topics,
    )
    assert called.code == 0, called.err
    assert "(opensearch): 1 topics, 1 judgments" in called.out
    assert (tmp_path / "q.txt").read_text() == "8 0 a 2\n"
    assert cli("convert", "qrels", tmp_path / "q.txt", tmp_path / "q.csv", "--topics", topics).code == 0
    assert (tmp_path / "q.csv").read_text() == "query,docid,rating\njeans,a,2\n"
    assert read_qrels(tmp_path / "q.csv") == {"jeans": {"a": 2}}


def test_runs_are_converted(cli, tmp_path):
    (tmp_path / "run.json").write_text('{"7": {"a": 0.5, "b": 2.25}}')
    called = cli("convert", "run", tmp_path / "run.json", tmp_path / "out", "--to", "trec", "--tag", "bm25")
    assert called.code == 0, called.err
    assert "(ranx): 1 topics, 2 documents." in called.out
    assert (tmp_path / "out").read_text() == "7 Q0 b 1 2.25 bm25\n7 Q0 a 2 0.5 bm25\n"
    assert cli("convert", "run", tmp_path / "out", tmp_path / "run.parquet").code == 0
    assert read_run(tmp_path / "run.parquet") == {"7": {"a": 0.5, "b": 2.25}}


def test_topics_are_converted(cli, topics, tmp_path):
    called = cli("convert", "topics", topics, tmp_path / "t.csv")
    assert called.code == 0, called.err
    assert "(jsonl): 2 topics with query, searches." in called.out
    assert read_topics(tmp_path / "t.csv") == read_topics(topics)


def test_a_field_of_topics_becomes_the_query(cli, refused, tmp_path):
    rows = '{"id": "d1", "query": "A sturdy tent.", "history": [], "rewrite": "tent"}\n'
    (tmp_path / "made.jsonl").write_text(rows, encoding="utf-8")
    named = ("convert", "topics", tmp_path / "made.jsonl", tmp_path / "topics.jsonl", "--map")
    assert cli(*named, "query=rewrite").code == 0
    assert read_topics(tmp_path / "topics.jsonl") == {"d1": {"query": "tent", "history": "", "rewrite": "tent"}}
    assert "the query is missing or blank" in refused(*named, "query=written")
    assert "is read from 'id' only" in refused(*named, "id=rewrite")


def test_a_snapshot_of_quepid_is_a_run_of_topics(cli, refused, tmp_path):
    snapshot = tmp_path / "snapshot.csv"
    snapshot.write_text("Snapshot Name,Snapshot Time,Case ID,Query Text,Doc ID,Doc Position\nMay,,5,red dress,a,1\n")
    (tmp_path / "topics.tsv").write_text("7\tred dress\n")
    called = cli("convert", "run", snapshot, tmp_path / "run.trec", "--topics", tmp_path / "topics.tsv", "--tag", "May")
    assert called.code == 0 and "(quepid): 1 topics, 1 documents" in called.out
    assert (tmp_path / "run.trec").read_text().split() == ["7", "Q0", "a", "1", "1.0", "May"]
    assert "snapshots of Quepid are only read" in refused("convert", "run", snapshot, tmp_path / "s", "--to", "quepid")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("qrels", "bad.txt", "out.tsv"), "bad.txt, line 2: the grade 0.5 is not a whole number"),
        (("qrels", "bad.txt", "out.tsv", "--thresholds", "high"), "'high' is not a list of numbers"),
        (("qrels", "bad.txt", "out.tsv", "--thresholds", "2,1"), "do not rise"),
        (("qrels", "none.txt", "out.tsv"), "there is no such file"),
        (("qrels", "bad.txt", "out.doc"), "does not imply a format of qrels"),
        (("qrels", "words.doc", "out.tsv"), "unknown format of qrels"),
        (("run", "bad.txt", "out.json", "--from", "opensearch"), "'opensearch' has no form for runs"),
        (("topics", "bad.txt", "out.csv", "--from", "yaml"), "there is no format 'yaml'"),
    ],
)
def test_unusable_conversions_are_refused(refused, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.txt").write_text("1 0 a 1\n1 0 b 0.5\n")
    (tmp_path / "words.doc").write_text("some words\n")
    assert says in refused("convert", *arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.txt", "words.doc"]
