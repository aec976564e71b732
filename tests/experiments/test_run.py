"""`run`: any number of queries in bounded memory, and continuing after a kill."""

from __future__ import annotations

import signal
import tracemalloc

import pytest

from searchlora.errors import DataError, PipelineError, RowError, UsageError
from searchlora.eval.judgments.card import read_run_card
from searchlora.eval.trec import read_run
from searchlora.experiments.run import merge_run, run
from searchlora.experiments.sharding import Sharding
from searchlora.files.append_log import AppendLog
from searchlora.files.shards import Shard
from searchlora.pipelines import pipeline as pipelines
from tests.child_scripts import run_script
from tests.factories import write_jsonl

PRODUCTS = [f"{colour} {thing}" for colour in ("red", "green", "blue") for thing in ("tent", "boot", "lamp", "rope")]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A folder with queries and documents; stages are called with 4 searches at a time."""
    monkeypatch.setattr(pipelines, "_BATCH", 4)
    write_jsonl(tmp_path / "queries.jsonl", [{"id": f"q{n}", "query": PRODUCTS[n % 12]} for n in range(18)])
    write_jsonl(tmp_path / "docs.jsonl", [{"id": f"d{n}", "text": text} for n, text in enumerate(PRODUCTS)])
    return tmp_path


@pytest.fixture
def executed(monkeypatch):
    """The ids of the searches that stages saw, call by call."""
    calls: list[list[str]] = []
    execute = pipelines.Pipeline.execute

    def seen(self, searches, **more):
        calls.append([search["id"] for search in searches])
        return execute(self, searches, **more)

    monkeypatch.setattr(pipelines.Pipeline, "execute", seen)
    return calls


def _run(made, folder, pipeline="bm25", queries="queries.jsonl"):
    folder.mkdir(exist_ok=True)
    outs = [folder / "run.trec", folder / "results.jsonl", folder / "results.jsonl.gz"]
    run(pipeline, made / queries, made / "docs.jsonl", outs)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if "card" not in path.name}


def _left(folder):
    return [path.name for path in folder.iterdir() if path.name.endswith(".partial")] if folder.exists() else []


KILLED = """
import os, signal, sys
from pathlib import Path
from searchlora.experiments.run import run
from searchlora.files.append_log import AppendLog
from searchlora.files import append_log
from searchlora.pipelines import pipeline

made, folder, writes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
pipeline._BATCH = 4
write = os.write

def dies(file, content):
    global writes
    writes -= content.endswith(b"}\\n")  # a row of the log
    if writes < 0:
        write(file, content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return write(file, content)

append_log.os.write = dies
folder.mkdir(exist_ok=True)
outs = [folder / "run.trec", folder / "results.jsonl", folder / "results.jsonl.gz"]
run("bm25", made / "queries.jsonl", made / "docs.jsonl", outs)
"""


@pytest.mark.slow
def test_a_killed_run_continues_with_the_bytes_of_an_uninterrupted_one(made, executed):
    expected = _run(made, made / "undisturbed")
    assert len(read_run(made / "undisturbed" / "run.trec")) == 18
    assert expected.keys() == {"run.trec", "results.jsonl", "results.jsonl.gz"}
    # Each of 5 parts has a key and a batch.
    for writes, done in ((0, 0), (1, 0), (2, 4), (9, 16)):
        folder = made / f"killed-{writes}"
        assert run_script(KILLED, made, folder, writes).returncode == -signal.SIGKILL
        assert not (folder / "run.trec").exists() and _left(folder)
        executed.clear()
        assert _run(made, folder) == expected
        assert executed[0][0] == f"q{done}"
        assert not _left(folder)
        assert read_run_card(folder / "run.trec") is not None


def test_a_run_killed_before_its_files_were_complete_only_writes_them(made, executed, monkeypatch):
    expected = _run(made, made / "undisturbed")

    def fails(*_):
        raise DataError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("searchlora.experiments.run.atomic_text", fails)
        with pytest.raises(DataError, match="disk is full"):
            _run(made, made / "out")
    executed.clear()
    assert _run(made, made / "out") == expected
    assert executed == []


@pytest.mark.parametrize("changed", ["queries", "documents", "stages"])
def test_batches_of_other_inputs_are_not_used(made, executed, monkeypatch, changed):
    append, rows = AppendLog.append, []

    def stops(self, row):
        append(self, row)
        rows.append(row)
        if len(rows) == 4:  # the keys and the batches of two parts
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AppendLog, "append", stops)
        with pytest.raises(KeyboardInterrupt):
            _run(made, made / "out")
    pipeline = "bm25"
    if changed == "queries":
        write_jsonl(made / "queries.jsonl", [{"id": f"q{n}", "query": PRODUCTS[-1 - n % 12]} for n in range(18)])
    elif changed == "documents":
        write_jsonl(made / "docs.jsonl", [{"id": f"d{n}", "text": text} for n, text in enumerate(PRODUCTS[:6])])
    else:
        pipeline = made / "other.yaml"
        pipeline.write_text("name: bm25\nstages: [{bm25: {k: 3}}]\n")
    executed.clear()
    found = _run(made, made / "out", pipeline)
    assert executed[0][0] == "q0"
    assert found == _run(made, made / "fresh", pipeline)


@pytest.mark.slow
def test_shards_and_their_merge_write_the_bytes_of_one_process(made, cli):
    expected = _run(made, made / "whole")
    outs = [made / "shards" / name for name in expected]
    asked = ["run", "bm25", "--queries", made / "queries.jsonl", "--corpus", made / "docs.jsonl"]
    asked += [part for out in outs for part in ("--out", out)]
    for shard in ("3/3", "1/3"):
        done = cli(*asked, "--shard", shard)
        assert f"Shard {shard} of {outs[0]} is complete" in done.out, done.err
    assert "1 of 3 shards are not complete: 2/3" in cli("merge", outs[0]).err
    assert cli(*asked, "--shard", "2/3").code == 0
    merged = cli("merge", outs[0])
    assert "Wrote 18 topics as " in merged.out, merged.err
    assert {out.name: out.read_bytes() for out in outs} == expected
    assert not _left(made / "shards")


def test_the_merge_writes_beside_its_out_in_any_working_directory(made, monkeypatch):
    monkeypatch.chdir(made)
    outs = ["out/run.trec", "out/deep/results.jsonl", "results.jsonl.gz"]
    run("bm25", "queries.jsonl", "docs.jsonl", outs, trace="out/trace.jsonl", sharding=Sharding(shard=Shard(1, 1)))
    elsewhere = made / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert merge_run("../out/run.trec")[1] == 18
    assert all((made / out).is_file() for out in (*outs, "out/trace.jsonl"))
    assert not list(elsewhere.iterdir())
    assert len(read_run(made / "out" / "run.trec")) == 18


def test_two_outputs_in_one_file_are_refused(made):
    outs, queries = [made / "a.jsonl", made / "b.trec"], made / "queries.jsonl"
    for again, trace in ((outs[1], None), (made / ".." / made.name / "a.jsonl", None), (made / "c.trec", outs[0])):
        with pytest.raises(UsageError, match="two outputs are written to this file"):
            run("bm25", queries, made / "docs.jsonl", [*outs, again], trace=trace)
    assert not outs[0].exists()


def test_nothing_is_left_of_a_run_that_fails_in_its_first_batch(made):
    (made / "hits.yaml").write_text("name: p\nstages: [{from_run: {}}]\n")
    with pytest.raises(PipelineError, match="query q0: has no list 'hits'"):
        _run(made, made / "out", made / "hits.yaml")
    assert list((made / "out").iterdir()) == []


def test_all_queries_are_checked_before_the_first_is_searched(made, executed):
    write_jsonl(made / "twice.jsonl", [{"id": f"q{n % 11}", "query": "tent"} for n in range(12)])
    with pytest.raises(PipelineError, match=r"twice.jsonl, query 12: the id 'q0' is repeated"):
        _run(made, made / "out", queries="twice.jsonl")
    write_jsonl(made / "bad.jsonl", [{"id": each, "query": "tent"} for each in ("q0", "q1", "a b")])
    with pytest.raises(RowError, match="'a b' cannot be used in a TREC file"):
        _run(made, made / "out", queries="bad.jsonl")
    for row, says in (({"id": "q", "query": None}, "'query' is None"), ({"id": None, "query": "x"}, "'id' is None")):
        write_jsonl(made / "null.jsonl", [{"id": "q0", "query": "tent"}, row])
        with pytest.raises(RowError, match=f"null.jsonl, line 2: {says}"):
            _run(made, made / "out", queries="null.jsonl")
    assert executed == []


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_queries(made, monkeypatch):
    monkeypatch.setattr(pipelines, "_BATCH", 64)
    note = "x" * 20_000  # a field that results repeat: 40 MB in all
    write_jsonl(made / "many.jsonl", [{"id": f"q{n}", "query": PRODUCTS[n % 12], "note": note} for n in range(2_000)])
    tracemalloc.start()
    try:
        run("bm25", made / "many.jsonl", made / "docs.jsonl", [made / "many.trec", made / "results.jsonl"])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (made / "results.jsonl").stat().st_size > 40_000_000
    assert peak < 25_000_000  # with a buffer of 16 MB, in which descriptions of shards are read
