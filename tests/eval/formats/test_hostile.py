"""Damaged qrels, runs and topics in every format: a value or a data error."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from searchlora.errors import SearchloraError
from searchlora.eval.formats import FORMATS, read_qrels, read_run, read_topics, write_qrels, write_run, write_topics
from searchlora.files import atomic_text
from tests.data.test_hostile_sources import damage

#: Damaged copies of each file.
ROUNDS = 40

QRELS = {"q1": {"d1": 3, "d2": 0}, "q2": {"d1": 1, "d3": 2}}
RUN = {"q1": {"d1": 1.5, "d2": 0.25}, "q2": {"d3": 2.0}}
TOPICS = {"q1": {"query": "red tent"}, "q2": {"query": "blue boot"}}


def write(kind: str, path: Path, name: str) -> None:
    if kind == "qrels":
        write_qrels(path, QRELS, name)
    elif (kind, name) == ("run", "quepid"):  # which is only read
        with atomic_text(path) as out:
            out.write(
                "Snapshot Name,Snapshot Time,Case ID,Query Text,Doc ID,Doc Position\nMay,,5,q1,d1,1\nMay,,5,q1,d2,2\n"
            )
    elif kind == "run":
        write_run(path, RUN, "tag", name)
    else:
        write_topics(path, TOPICS, name)


CASES = [(kind, name) for kind in ("qrels", "run", "topics") for name, form in FORMATS.items() if getattr(form, kind)]


@pytest.mark.slow
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_damaged_file_is_read_or_a_data_error(tmp_path: Path, kind: str, name: str, named: bool) -> None:
    rng = random.Random(f"{kind} {name} {named}")
    read = {"qrels": read_qrels, "run": read_run, "topics": read_topics}[kind]
    for number in range(ROUNDS):
        ending = ".parquet" if name == "parquet" else rng.choice((".txt", ".txt.gz"))
        path = tmp_path / f"{number}{ending}"
        write(kind, path, name)
        damage(path, rng)
        try:
            read(path, name if named else None)
        except SearchloraError as error:
            assert str(error)
