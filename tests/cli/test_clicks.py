"""`searchlora clicks`: conversion of a click log to qrels, and errors of malformed logs."""

from __future__ import annotations

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from searchlora.eval.formats import read_qrels
from searchlora.eval.judgments.card import read_card


def rows(names=("query", "document", "position", "clicked")):
    """Two queries; the second document of each is clicked as often as the first, one position further down."""
    for query in ("red shoes", "tent"):
        for at in range(40):
            for position in (1, 2):
                values = (query, f"{query[0]}{position}", position, at % 4 == 0)
                yield dict(zip(names, values, strict=True))
            for other in (3, 4):
                yield dict(zip(names, (query, f"{query[0]}{other}", 2, False), strict=True))


@pytest.fixture(params=["log.jsonl", "log.csv", "log.tsv", "log.jsonl.gz", "log.parquet"])
def log(request, tmp_path):
    path, found = tmp_path / request.param, list(rows())
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(found), path)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, list(found[0]), delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows({**row, "clicked": int(row["clicked"])} for row in found)
    else:
        with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as out:
            out.writelines(json.dumps(row) + "\n" for row in found)
    return path


def test_from_log_to_qrels(cli, log, tmp_path):
    out = tmp_path / "made" / "qrels.txt"
    called = cli("clicks", log, "--out", out)
    assert called.code == 0, called.err
    qrels = read_qrels(out)
    assert set(qrels) == {"red+shoes", "tent"}
    assert qrels["tent"] == {"t1": 2, "t2": 3, "t3": 0, "t4": 0}
    card = read_card(out)
    assert card is not None
    assert (card.source, list(card.made_from)) == ("clicks", [log.name])
    assert "320 rows, 8 pairs of query and document" in called.out
    assert "       1            80         20   0.250  0.168–0.355" in called.out
    assert "grade 0:          4 pairs" in called.out
    assert "8 judgments of 2 topics" in called.out


def test_columns_thresholds_minimum_and_topics_are_options(cli, tmp_path):
    path, out = tmp_path / "log.jsonl", tmp_path / "qrels.txt"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(("q", "sku", "rank", "hit"))))
    named = {"query": "q", "document": "sku", "position": "rank", "clicked": "hit"}
    columns = [part for field, column in named.items() for part in (f"--{field}-column", column)]
    called = cli("clicks", path, "--out", out, *columns, "--thresholds", "0.9", "--minimum", "40")
    assert called.code == 0, called.err
    assert {grade for row in read_qrels(out).values() for grade in row.values()} == {0, 1}
    topics = tmp_path / "topics.tsv"
    topics.write_text("7\tRed shoes\n8\tsleeping bag\n")
    called = cli("clicks", path, "--out", tmp_path / "of_topics.txt", *columns, "--topics", topics)
    assert called.code == 0 and "4 judgments of 1 topics" in called.out, called
    assert read_qrels(tmp_path / "of_topics.txt") == {"7": {"r1": 2, "r2": 3, "r3": 0, "r4": 0}}
    assert set(read_card(tmp_path / "of_topics.txt").made_from) == {"log.jsonl", "topics.tsv"}


@pytest.mark.slow
def test_malformed_rows_are_named_and_nothing_is_written(refused, tmp_path):
    path, out = tmp_path / "log.jsonl", tmp_path / "qrels.txt"
    good = {"query": "q", "document": "d", "position": 1, "clicked": 1}
    for change, complaint in (
        ({"position": 0}, "log.jsonl, line 2, field position: the position is '0'"),
        ({"clicked": "yes"}, "log.jsonl, line 2, field clicked: 'yes' is not 0, 1, true or false"),
        ({"query": "  "}, "log.jsonl, line 2, field query: is empty"),
        ({"position": 10**7}, "the position is '10000000'. Positions go from 1 to 1,000,000"),
        ({"position": 10**400}, "log.jsonl, line 2: is not JSON (the integer 10000000000000000000... of 401 digits"),
        ({"clicked": float("nan")}, "log.jsonl, line 2: is not JSON"),
        ({"query": "q\0"}, "log.jsonl, line 2, field query: cannot be used: a text holds a NUL character"),
        ({"document": "\ud800"}, "log.jsonl, line 2: is not JSON (a text holds a lone surrogate)"),
        ({"document": ["d"]}, "log.jsonl, line 2, field document: is empty or not text"),
    ):
        path.write_text(f"{json.dumps(good)}\n{json.dumps(good | change)}\n")
        assert complaint in refused("clicks", path, "--out", out)
    path.write_text(f"{json.dumps(good)}\nnonsense\n")
    assert "log.jsonl, line 2: is not JSON" in refused("clicks", path, "--out", out)
    path.write_text(json.dumps({"query": "q", "doc": "d", "position": 1, "clicked": 1}) + "\n")
    assert "document" in refused("clicks", path, "--out", out)
    assert "there is no such file" in refused("clicks", tmp_path / "none.csv", "--out", out)
    assert "'a' is not a list of numbers" in refused("clicks", path, "--out", out, "--thresholds", "a")
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "log.csv").write_text("query,document,position,clicked\n")
    assert "there are no impressions" in refused("clicks", tmp_path / "log.csv", "--out", out)


@pytest.mark.slow
def test_nothing_is_overwritten_and_no_partial_file_remains(refused, tmp_path):
    """Neither the log nor human judgments are overwritten, and no figures remain without their qrels."""
    log, people = tmp_path / "log.csv", tmp_path / "people.txt"
    lines = [f"tent,d {at % 2},1,{at % 2}\n" for at in range(40)]
    log.write_text("query,document,position,clicked\n" + "".join(lines))
    people.write_text("q 0 d 1\n")
    before = log.read_bytes()
    assert "log.csv: already exists" in refused("clicks", log, "--out", log)
    assert "people.txt: already exists" in refused("clicks", log, "--out", people)
    assert "'d 0' cannot be used in a TREC file" in refused("clicks", log, "--out", tmp_path / "qrels.txt")
    assert (log.read_bytes(), people.read_text()) == (before, "q 0 d 1\n")
    assert set(tmp_path.iterdir()) == {log, people}


# `searchlora convert`: qrels for other tools, which keep their card, and never a partial file


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
