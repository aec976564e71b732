"""A malformed file names the line, row or place at fault, in every format."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from searchlora.errors import DataError, SearchloraError
from searchlora.eval.formats import FORMATS, read_qrels, read_run, read_topics
from searchlora.files import atomic_text
from tests.data.test_hostile_sources import damage

BEIR = "query-id\tcorpus-id\tscore\n1\ta\t1\n"
QUEPID = "query,docid,rating\nred,a,1\n"
JSONL = '{"topic": "1", "document": "a", "grade": 1}\n'
RUN = '{"topic": "1", "document": "a", "score": 1}\n'


def searched(*ratings):
    return json.dumps({"judgmentRatings": [{"query": "red", "ratings": [{"docId": "a", "rating": 1}, *ratings]}]})


RATING = "judgmentRatings entry 1, rating 2"

QRELS = [
    ("trec", "1 0 a 1\n1 0 b\n", "line 2", "3 fields where 4 are needed"),
    ("trec", "1 0 a 1\n1 0 b 0.5\n", "line 2", "the grade 0.5 is not a whole number"),
    ("trec", "1 0 a 1\n1 0 b nan\n", "line 2", "the grade 'nan' is not a finite number"),
    ("trec", "1 0 a 1\n1 0 a 1\n", "line 2", "document a is judged twice for topic 1"),
    ("trec", "1 0 a 1\n1 0 b " + "9" * 400 + "\n", "line 2", "of 402 characters is not a finite number"),
    ("trec", "1 0 a 1\n1 0 b\0 1\n", "line 2", "NUL"),
    ("jsonl", JSONL + '{"topic": "1", "document": "b\\u0000", "grade": 1}\n', "line 2", "NUL"),
    ("jsonl", JSONL + '{"topic": "1", "document": "\\ud800", "grade": 1}\n', "line 2", "lone surrogate"),
    ("jsonl", JSONL + '{"topic": "1", "document": "b", "grade": 1e400}\n', "line 2", "not finite"),
    ("beir", BEIR + "1\tb\n", "line 3", "2 fields where the header has 3"),
    ("beir", BEIR + '1\t"b"c\t0\n', "line 3", "cannot be read as a row"),
    ("beir", "query-id\tdocument\tscore\n1\ta\t1\n", "line 1", "there is no column 'corpus-id'"),
    ("jsonl", JSONL + '\n{"topic": "1", "document": "b", "grade": 1\n', "line 3", "is not JSON"),
    ("jsonl", JSONL + '{"topic": "1", "document": "b", "grade": true}\n', "line 2", "the grade True"),
    ("jsonl", JSONL + '{"topic": "1", "grade": 1}\n', "line 2", "the document is missing"),
    ("jsonl", JSONL + '{"topic": "1", "document": "b", "grade": 1, "grade": 2}\n', "line 2", "'grade' occurs twice"),
    ("jsonl", JSONL + "[]\n", "line 2", "is not a JSON object"),
    ("quepid", QUEPID + '"two\nlines",b,x\n', "line 3", "the grade 'x'"),
    ("quepid", QUEPID + "red,b,1,2\n", "line 3", "4 fields where the header has 3"),
    ("quepid", QUEPID + "red, a ,2\n", "line 3", "judged twice"),
    ("quepid", QUEPID + "red,,2\n", "line 3", "a rating but no document"),
    ("quepid", QUEPID + 'red,"b,2\n', "line 3", "cannot be read as a row"),
    ("quepid", "query,docid,Ann,Ben\nred,a,1,2\n", "line 1", "is of a book, which has several raters"),
    ("quepid", "q,d,r\nred,a,1\n", "line 1", "not the header of a Quepid export"),
    ("opensearch", searched({"docId": "b", "rating": "x"}), RATING, "the grade 'x'"),
    ("opensearch", searched({"rating": "2"}), RATING, "the document is missing"),
    ("opensearch", searched(3), RATING, "is not a JSON object"),
    ("opensearch", '{"judgmentRatings": [{"query": "a"}]}', "judgmentRatings entry 1", "has no list 'ratings'"),
    ("opensearch", '{"judgmentRatings": 1}', "", "has no list 'judgmentRatings'"),
    ("opensearch", '{"hits": {"hits": [{}, {}]}}', "", "holds 2 judgment lists"),
    ("opensearch", '{"hits": {"total": 0}}', "", "holds no judgment lists"),
    ("opensearch", '{"judgmentRatings": [],\n"judgmentRatings": []}', "", "'judgmentRatings' occurs twice"),
    ("opensearch", '{"judgmentRatings":\n[', "line 2", "is not JSON"),
]


@pytest.mark.parametrize(("name", "content", "place", "says"), QRELS)
def test_malformed_qrels_name_the_place(tmp_path, name, content, place, says):
    path = tmp_path / "qrels"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=says) as caught:
        read_qrels(path, name)
    assert caught.value.where == (f"{path}, {place}" if place else str(path))


RUNS = [
    ("trec", "1 Q0 a 1 2 t\n1 Q0 b 1 high t\n", "line 2", "the score 'high' is not a number"),
    ("trec", "1 Q0 a 1 2 t\n1 Q0 a 1 2 t\n", "line 2", "ranked twice"),
    ("jsonl", RUN + '{"topic": "1", "document": "b", "score": NaN}\n', "line 2", "is not a finite number"),
]


@pytest.mark.parametrize(("name", "content", "place", "says"), RUNS)
def test_malformed_runs_name_the_place(tmp_path, name, content, place, says):
    path = tmp_path / "run"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=says) as caught:
        read_run(path, name)
    assert caught.value.where == f"{path}, {place}"


TOPICS = [
    ("trec", "1\tred\n2 blue\n", "line 2", "1 fields where 2 are needed"),
    ("trec", "1\tred\n1\tblue\n", "line 2", "topic 1 occurs twice"),
    ("trec", "1\tred\n2\t \n", "line 2", "the query is missing or blank"),
    ("trec", "<top>\n<num> 1\n<title> red\n</top>\n\n<top>\n<title> blue\n</top>\n", "line 6", "topic is missing"),
    ("trec", "<top>\n<num> 1\n<title> red\n</top>\n<top>\n<num> 2\n</top>\n", "line 5", "the query is missing"),
    ("trec", "<top>\n<num> 1\n<title> red\n<top>\n<num> 2\n</top>\n", "line 1", "has no </top>"),
    ("trec", "<top>\n<num> 1\n<num> 2\n<title> red\n</top>\n", "line 1", "<num> occurs twice"),
    ("beir", '{"_id": "1", "text": "a", "metadata": [1]}\n', "line 1", "metadata is not a JSON object"),
    ("jsonl", '{"id": "1", "query": "a"}\n{"id": "2", "query": 3}\n', "line 2", "the query is missing"),
    ("jsonl", '{"id": "1", "query": "a"}\n{"id": "2", "query": "b", "x": [1]}\n', "line 2", "field 'x' is neither"),
    ("csv", "id,query\n1,red\n2\n", "line 3", "1 fields where the header has 2"),
    ("csv", "id,query,x,x\n1,red,2,3\n", "line 1", "column 'x' occurs twice"),
    ("csv", "id,text\n1,red\n", "line 1", "there is no column 'query'"),
]


@pytest.mark.parametrize(("name", "content", "place", "says"), TOPICS)
def test_malformed_topics_name_the_place(tmp_path, name, content, place, says):
    path = tmp_path / "topics"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=says) as caught:
        read_topics(path, name)
    assert caught.value.where == f"{path}, {place}"


@pytest.mark.parametrize("read", [read_qrels, read_run, read_topics])
def test_missing_truncated_and_binary_files_are_errors(tmp_path, read):
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"1 0 d 1\n" * 99)[:-9])
    (tmp_path / "bad.gz").write_bytes(b"no gzip")
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}')
    for name in ("none", "cut.gz", "bad.gz", "latin.jsonl"):
        with pytest.raises(DataError, match=name):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["trec", "beir", "jsonl", "quepid", "opensearch"])
def test_qrels_without_a_judgment_are_refused(tmp_path, name):
    nothing = {"beir": BEIR.split("\n")[0], "quepid": "query,docid,rating\nred\nblue,a,\n"}
    (tmp_path / "q").write_text(nothing.get(name, '{"judgmentRatings": []}' if name == "opensearch" else ""))
    with pytest.raises(DataError, match="holds no judgment"):
        read_qrels(tmp_path / "q", name)


def test_empty_topics_are_refused_and_an_empty_run_is_accepted(tmp_path):
    (tmp_path / "none.txt").write_text("")
    with pytest.raises(DataError, match="holds no topic"):
        read_topics(tmp_path / "none.txt")
    assert read_run(tmp_path / "none.txt") == {}


# Damaged qrels, runs and topics in every format: a value or a data error

#: Damaged copies of each file.
ROUNDS = 40

WRITTEN = {
    ("qrels", "trec"): "q1 0 d1 3\nq1 0 d2 0\nq2 0 d1 1\n",
    ("qrels", "beir"): "query-id\tcorpus-id\tscore\nq1\td1\t3\nq1\td2\t0\n",
    ("qrels", "jsonl"): '{"topic": "q1", "document": "d1", "grade": 3}\n{"topic": "q2", "document": "d", "grade": 1}\n',
    ("qrels", "quepid"): 'query,docid,rating\nred,d1,3\n" =SUM(1,2)","d,2",0\n',
    ("qrels", "opensearch"): '{"judgmentRatings": [{"query": "red", "ratings": [{"docId": "a", "rating": "3.0"}]}]}',
    ("run", "trec"): "q1 Q0 d1 1 1.5 tag\nq1 Q0 d2 2 0.25 tag\n",
    ("run", "jsonl"): '{"topic": "q1", "document": "d1", "score": 1.5}\n',
    ("run", "quepid"): "Snapshot Name,Snapshot Time,Case ID,Query Text,Doc ID,Doc Position\nMay,,5,q1,d1,1\n",
    ("topics", "trec"): "q1\tred tent\nq2\tblue boot\n",
    ("topics", "beir"): '{"_id": "q1", "text": "red tent", "metadata": {}}\n',
    ("topics", "jsonl"): '{"id": "q1", "query": "red tent"}\n{"id": "q2", "query": "blue boot"}\n',
    ("topics", "csv"): "id,query,n\nq1,red tent,1\nq2,blue boot,2\n",
}


def test_every_format_has_a_file():
    known = {(kind, name) for kind in ("qrels", "run", "topics") for name in FORMATS if getattr(FORMATS[name], kind)}
    assert WRITTEN.keys() == known


@pytest.mark.slow
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(("kind", "name"), WRITTEN)
def test_a_damaged_file_is_read_or_a_data_error(tmp_path: Path, kind: str, name: str, named: bool) -> None:
    rng = random.Random(f"{kind} {name} {named}")
    read = {"qrels": read_qrels, "run": read_run, "topics": read_topics}[kind]
    for number in range(ROUNDS):
        path = tmp_path / f"{number}{rng.choice(('.txt', '.txt.gz'))}"
        with atomic_text(path) as out:
            out.write(WRITTEN[kind, name])
        assert read(path, name if named else None)
        damage(path, rng)
        try:
            read(path, name if named else None)
        except SearchloraError as error:
            assert str(error)
