"""Text files: encodings, and the position of bytes that cannot be decoded."""

from __future__ import annotations

import gzip
import tracemalloc

import pytest

from searchlora.errors import DataError, UsageError
from searchlora.files import (
    json_file,
    numbered_lines,
    open_bytes,
    open_text,
    read_bounded,
    read_bytes,
    read_head,
    read_rows,
    reading_as,
)


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


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16"])
def test_another_encoding_is_that_of_texts_and_tables_but_not_of_json(tmp_path, encoding):
    (tmp_path / "a.csv").write_bytes("query,n\ncafé,1\n".encode(encoding))
    (tmp_path / "a.txt").write_bytes("café\n".encode(encoding))
    (tmp_path / "a.jsonl").write_text('{"query": "café"}\n', encoding="utf-8")
    with reading_as(encoding):
        assert [row.data for row in read_rows(tmp_path / "a.csv")] == [{"query": "café", "n": "1"}]
        assert list(numbered_lines(tmp_path / "a.txt")) == [(1, "café\n")]
        assert [row.data for row in read_rows(tmp_path / "a.jsonl")] == [{"query": "café"}]
        assert next(iter(numbered_lines(tmp_path / "a.jsonl")))[1] == '{"query": "café"}\n'
    with pytest.raises(UsageError, match="base65"), reading_as("base65"):
        pass


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
