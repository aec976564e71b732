"""Text files: limits of gzip and of lines, and the position of bytes that are not UTF-8."""

from __future__ import annotations

import gzip
import subprocess
import sys
import tracemalloc
import zlib

import pytest

from searchlora.errors import DataError
from searchlora.eval.formats import read_qrels, read_run, read_topics
from searchlora.files import (
    json_file,
    numbered_lines,
    open_bytes,
    open_text,
    read_bounded,
    read_bytes,
    read_head,
    read_rows,
)
from searchlora.files import text as text_module
from tests.memory import PEAK


def bomb(path, mebibytes, piece=b" "):
    """A gzip file of about a thousandth of its decompressed size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = piece * ((1 << 20) // len(piece))
    with path.open("wb") as out:
        for _ in range(mebibytes):
            out.write(packer.compress(block))
        out.write(packer.flush())
    return path


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("rows.jsonl.gz", lambda path: list(read_rows(path))),
        ("rows.json.gz", lambda path: list(read_rows(path))),
        ("rows.csv.gz", lambda path: list(read_rows(path))),
        ("rows.tsv.gz", lambda path: list(read_rows(path))),
        ("rows.parquet.gz", lambda path: list(read_rows(path))),
        ("run.gz", read_run),
        ("qrels.jsonl.gz", lambda path: read_qrels(path, "jsonl")),
        ("qrels.json.gz", lambda path: read_qrels(path, "opensearch")),
        ("topics.txt.gz", read_topics),
        ("value.json.gz", json_file),
    ],
)
def test_a_gzip_bomb_is_refused_in_little_memory(tmp_path, name, read, monkeypatch):
    monkeypatch.setattr(text_module, "MIN_UNPACK_LIMIT", 1 << 20)
    with pytest.raises(DataError, match=r"unpacks to more than 100 times its size.*unpack it"):
        read(bomb(tmp_path / name, 24))


@pytest.mark.slow
def test_a_gzip_bomb_of_a_gigabyte_needs_little_memory(tmp_path):
    path = bomb(tmp_path / "rows.jsonl.gz", 1024)
    script = f"""{PEAK}
from pathlib import Path
from searchlora.errors import DataError
from searchlora.files import read_rows
before = peak()
try:
    list(read_rows(Path({str(path)!r})))
except DataError as error:
    print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 150


@pytest.mark.slow
def test_highly_compressible_text_is_read_completely(tmp_path):
    path = tmp_path / "rows.txt.gz"
    path.write_bytes(gzip.compress(b"the same line\n" * 1_000_000))  # 14 MB from 34 KB: below the lowest limit
    assert sum(1 for _ in numbered_lines(path)) == 1_000_000


def test_a_line_without_an_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text_module, "MAX_LINE", 1000)
    (tmp_path / "run").write_text("1 Q0 a 1 1 t\n" + "x" * 5000)
    with pytest.raises(DataError, match=r"run, line 2: has more than 1,000 characters"):
        read_run(tmp_path / "run", "trec")


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_the_line_that_is_not_utf8_is_named(tmp_path, name):
    content = b"fine\n" * 40_000 + b"caf\xe9\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError, match=r"line 40001: is not UTF-8 text"):
        list(numbered_lines(tmp_path / name))
    with pytest.raises(DataError, match=r"line 40001"), open_text(tmp_path / name) as text:
        text.read()


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbftent\n")
    assert list(numbered_lines(tmp_path / "a.txt")) == [(1, "tent\n")]
    assert read_head(tmp_path / "a.txt").line == "tent"


def test_paths_that_are_not_files_are_named(tmp_path):
    for path, says in ((tmp_path, "Is a directory"), (tmp_path / "none", "no such file")):
        with pytest.raises(DataError, match=says), open_bytes(path):
            pass


@pytest.mark.parametrize("read", [json_file, read_bytes, lambda path: read_bounded(path, 2**30)])
def test_a_small_file_reserves_no_memory_for_the_limit(tmp_path, read):
    (tmp_path / "value.json").write_text("[1]")
    tracemalloc.start()
    try:
        assert read(tmp_path / "value.json") in ([1], b"[1]")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
