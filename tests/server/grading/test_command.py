"""`searchlora grade serve` and `export` as subprocesses, on TREC DL 2019 passages if available."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from searchlora.eval.formats import read_qrels
from searchlora.eval.judgments.card import read_card
from searchlora.eval.judgments.ratings import read_ratings
from searchlora.eval.trec import write_run
from searchlora.files import file_sha256

SCRIPT = str(Path(sys.executable).with_name("searchlora"))


class Served:
    """`searchlora grade serve` as a process, with a client for its page."""

    def __init__(self, *arguments: object) -> None:
        command = [SCRIPT, "grade", "serve", "--port", "0", *map(str, arguments)]
        env = os.environ | {"PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        self.output_lines = [self.process.stdout.readline()]
        self.output_lines.append(self.process.stdout.readline())
        found = re.search(r"http://\S+", self.output_lines[-1])
        assert found, self.process.communicate()
        self.client = httpx.Client(base_url=found[0])

    def next(self, rater):
        return self.client.post(f"/api/raters/{rater}/next").json()

    def rate(self, rater, pair, grade):
        body = {"pair": pair, "grade": grade, "seconds": 1.0, "note": ""}
        return self.client.post(f"/api/raters/{rater}/ratings", json=body).json()

    def stop(self, how):
        self.client.close()
        self.process.send_signal(how)
        return self.process.communicate(timeout=20)[1]


def write_files(folder):
    rows = [{"id": f"d{n}", "text": f"text {n}"} for n in range(4)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "topics.tsv").write_text("1\tfirst query\n2\tsecond query\n")
    (folder / "guide.md").write_text("* 1: Relevant\n* 0: Not relevant\n")
    write_run(folder / "a.trec", {"1": {"d0": 3.0, "d1": 2.0, "d2": 1.0}, "2": {"d3": 1.0}}, "a")
    write_run(folder / "b.trec", {"1": {"d2": 3.0, "d0": 2.0}}, "b")
    texts = [f"--{name}={folder / file}" for name, file in (("topics", "topics.tsv"), ("corpus", "corpus.jsonl"))]
    return [*texts, f"--guideline={folder / 'guide.md'}", "--scale=0,1", f"--out={folder / 'grades'}"]


@pytest.mark.slow
def test_a_queue_is_shown_in_its_order(tmp_path):
    files = write_files(tmp_path)
    order = [("2", "d3"), ("1", "d2"), ("1", "d0")]
    rows = [{"topic": topic, "document": document, "priority": 1.0} for topic, document in order]
    (tmp_path / "queue.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    server = Served(*files, "--pairs", tmp_path / "queue.jsonl", "--as-listed", "--overlap", "1")
    shown = server.next("anna")
    for _ in order:
        shown = server.rate("anna", shown["pair"]["id"], 1)
    server.stop(signal.SIGTERM)
    rated = [rating.pair for rating in read_ratings(tmp_path / "grades" / "ratings.jsonl")]
    assert rated == order


@pytest.mark.slow
def test_a_kill_loses_no_grade_and_export_writes_qrels(tmp_path):
    runs = ["--pool", tmp_path / "a.trec", "--pool", tmp_path / "b.trec", "--depth", "2"]
    files = write_files(tmp_path)
    server = Served(*files, *runs)
    assert "4 pairs of 2 topics, 2 raters each" in server.output_lines[0]
    anna = server.next("anna")
    for grade in (1, 0):
        anna = server.rate("anna", anna["pair"]["id"], grade)
    server.stop(signal.SIGKILL)
    with (tmp_path / "grades" / "ratings.jsonl").open("a") as file:
        file.write('{"topic": "1", "docu')

    server = Served(*files, *runs)
    assert server.next("anna") == anna
    while anna["pair"]:
        anna = server.rate("anna", anna["pair"]["id"], 1)
    ben = server.next("ben")
    while ben["pair"]:
        ben = server.rate("ben", ben["pair"]["id"], 0 if ben["progress"]["done"] == 3 else None)
    assert server.next("carl")["progress"] == {"done": 0, "total": 0}
    assert re.fullmatch(r"warning: .*the last line was incomplete.*\n", server.stop(signal.SIGINT))
    assert server.process.returncode == 0

    ratings = tmp_path / "grades" / "ratings.jsonl"
    assert len(read_ratings(ratings)) == 8
    out = tmp_path / "out"
    command = [SCRIPT, "grade", "export", "--ratings", ratings, "--out", out, "--rule", "highest"]
    reported = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "4 pairs of 2 raters, 1 by two or more" in reported
    assert sorted(path.name for path in out.iterdir()) == [
        *("agreement.json", "agreement.md", "qrels.anna.txt", "qrels.ben.txt", "qrels.txt"),
        "qrels.txt.card.json",
    ]
    assert read_card(out / "qrels.txt").made_from == {"ratings": file_sha256(ratings)}
    assert {topic: set(grades) for topic, grades in read_qrels(out / "qrels.txt").items()} == {
        "1": {"d0", "d1", "d2"},
        "2": {"d3"},
    }


def test_unusable_inputs_are_one_line_errors(tmp_path, refused):
    files = [*write_files(tmp_path), "--pool", tmp_path / "a.trec"]
    for change, says in (
        ("--scale=0,x", "the scale '0,x' is not a list of whole numbers"),
        ("--scale=0", "0 is no scale"),
        ("--pairs=none.txt", "a pool of runs or a file of pairs"),
        ("--overlap=0", "too few"),
        ("--host=203.0.113.7", "port 8765 cannot be used"),
        ("--topics=none", "none"),
    ):
        assert says in refused("grade", "serve", *files, change)
    ratings = tmp_path / "grades" / "ratings.jsonl"
    assert not ratings.exists() or ratings.read_bytes() == b""
