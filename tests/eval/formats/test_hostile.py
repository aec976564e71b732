"""Damaged qrels, runs and topics in every format: a value or a data error."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from searchlora.errors import SearchloraError
from searchlora.eval.formats import FORMATS, read_qrels, read_run, read_topics
from searchlora.files import atomic_text
from tests.data.test_hostile_sources import damage

#: Damaged copies of each file.
ROUNDS = 40

WRITTEN = {
    ("qrels", "trec"): "q1 0 d1 3\nq1 0 d2 0\nq2 0 d1 1\n",
    ("qrels", "beir"): "query-id\tcorpus-id\tscore\nq1\td1\t3\nq1\td2\t0\n",
    (
        "qrels",
        "jsonl",
    ): '{"topic": "q1", "document": "d1", "grade": 3}\n{"topic": "q2", "document": "d", "grade": 1}\n',
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
