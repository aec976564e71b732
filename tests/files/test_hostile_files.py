"""Pipes, devices, links, packed files, files that hold far more than their size: an error in words, in bounded time."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from searchlora.data.dataset import read_card
from searchlora.errors import DataError, SearchloraError
from searchlora.eval.formats import read_qrels, read_run, read_topics
from searchlora.eval.judgments.ratings import read_ratings
from searchlora.eval.policy import read_policy
from searchlora.experiments.spec import read_experiment
from searchlora.files import (
    RejectedRow,
    atomic_text,
    check_writable,
    file_sha256,
    json_file,
    open_text,
    parse_json,
    read_head,
    read_rows,
    read_text,
)
from searchlora.files import text as text_module
from searchlora.pipelines.config import read_pipeline
from searchlora.recipe import load_recipe
from tests.memory import PEAK

READERS: dict[str, Callable[[Path], Any]] = {
    "rows": lambda path: list(read_rows(path.rename(path.with_suffix(".jsonl")))),
    "head": read_head,
    "json": json_file,
    "text": read_text,
    "qrels": read_qrels,
    "qrels of a named format": lambda path: read_qrels(path, "opensearch"),
    "run": read_run,
    "topics": read_topics,
    "recipe": lambda path: load_recipe({}, path),
    "pipeline": lambda path: read_pipeline(str(path)),
    "policy": read_policy,
    "experiment": read_experiment,
    "ratings": read_ratings,
    "hash": file_sha256,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_pipe_is_refused_at_once(tmp_path, read):
    """To open a pipe waits for its writer, and a second reading of it finds nothing."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SearchloraError, match="is a pipe or a device"):
        read(tmp_path / "pipe")


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_device_that_never_ends_is_refused_at_once(tmp_path, read):
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(SearchloraError, match="is a pipe or a device"):
        read(tmp_path / "zero")


@pytest.mark.parametrize("name", ["recipe", "pipeline", "policy", "experiment", "text"])
def test_a_large_file_where_a_small_one_belongs(tmp_path, name):
    (tmp_path / "log.yaml").write_text("a: b\n" * (1 << 21))
    with pytest.raises(SearchloraError, match="has more than 8,388,608 bytes"):
        READERS[name](tmp_path / "log.yaml")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: Path(path).symlink_to("/dev/null")], ids=["pipe", "device"])
def test_a_pipe_and_a_device_are_never_replaced(tmp_path, make):
    make(tmp_path / "out")
    with pytest.raises(DataError, match="it is a pipe or a device"):
        check_writable(tmp_path / "out")
    with pytest.raises(DataError, match="it is a pipe or a device"), atomic_text(tmp_path / "out") as out:
        out.write("x")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out").is_file()
    assert Path("/dev/null").is_char_device()


def test_a_symbolic_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("elsewhere/file.txt")
    with atomic_text(tmp_path / "link.txt") as out:
        out.write("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "elsewhere" / "file.txt").read_text() == "new"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError, match="cannot be written"), atomic_text(tmp_path / "loop" / "x") as out:
        out.write("new")


@pytest.mark.parametrize(
    ("pack", "kind"),
    [
        (gzip.compress, "is gzip, not text"),
        (bz2.compress, "is bzip2, not text"),
        (lzma.compress, "is xz, not text"),
        (lambda data: b"\x28\xb5\x2f\xfd" + data, "is Zstandard, not text"),
        (lambda data: b"PK\x03\x04" + data, "is a ZIP archive, not text"),
        (lambda data: b"PAR1" + data, "is Parquet, not text"),
        (lambda data: data.decode().encode("utf-16"), "is UTF-16 text, not UTF-8"),
        (lambda data: b"\xfe\xff" + data.decode().encode("utf-16-be"), "is UTF-16 text, not UTF-8"),
        (lambda data: data.decode().encode("utf-32"), "is UTF-32 text, not UTF-8"),
    ],
)
@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "jsonl.gz"])
def test_what_a_file_is_instead_of_text_is_named(tmp_path, pack, kind, ending):
    content = pack(b'{"id": "1"}\n' * 20)
    (tmp_path / f"rows.{ending}").write_bytes(gzip.compress(content) if ending.endswith(".gz") else content)
    with pytest.raises(DataError, match=kind) as told:
        list(read_rows(tmp_path / f"rows.{ending}"))
    assert f"rows.{ending}" in str(told.value)


def test_gzip_is_recognised_in_capital_letters(tmp_path):
    (tmp_path / "ROWS.JSONL.GZ").write_bytes(gzip.compress(b'{"id": "1"}\n'))
    assert [row.data for row in read_rows(tmp_path / "ROWS.JSONL.GZ")] == [{"id": "1"}]
    with atomic_text(tmp_path / "OUT.TXT.GZ") as out:
        out.write("text")
    assert gzip.decompress((tmp_path / "OUT.TXT.GZ").read_bytes()) == b"text"
    with open_text(tmp_path / "OUT.TXT.GZ") as file:
        assert file.read() == "text"


@pytest.mark.slow
def test_a_repeated_key_among_very_many_is_found_in_linear_time():
    members = [f'"key{number}": 1' for number in range(300_000)]
    start = time.perf_counter()
    with pytest.raises(ValueError, match="the key 'key299999' occurs twice"):
        parse_json("{" + ",".join([*members, members[-1]]) + "}")
    assert time.perf_counter() - start < 20
    with pytest.raises(ValueError, match=r"the key 'k{20}\.\.\. of 100000 characters' occurs twice"):
        parse_json('{"%s": 1, "%s": 2}' % (2 * ("k" * 100_000,)))


@pytest.mark.slow
def test_a_header_of_very_many_columns_is_checked_in_linear_time(tmp_path):
    columns = [f"column{number}" for number in range(300_000)]
    start = time.perf_counter()
    (tmp_path / "rows.csv").write_text(",".join(columns) + "\n")
    with pytest.raises(DataError, match=r"there is no column 'id'.*column19 and 299980 more") as told:
        list(read_rows(tmp_path / "rows.csv", ["id"]))
    assert len(str(told.value)) < 1000
    (tmp_path / "rows.csv").write_text(",".join([*columns, columns[-1]]) + "\n")
    with pytest.raises(DataError, match="column 'column299999' occurs twice"):
        list(read_rows(tmp_path / "rows.csv"))
    assert time.perf_counter() - start < 20


def test_a_message_is_bounded_whatever_a_file_holds(tmp_path):
    (tmp_path / "run.trec").write_text(f"q1 Q0 d1 1 {'9' * 1_000_000} tag\n")
    with pytest.raises(DataError, match=r"the score .* is not finite") as told:
        read_run(tmp_path / "run.trec")
    assert len(str(told.value)) < 6000


# Parquet


def table(kind):
    """A table that takes little room in a file and much in memory."""
    ids = pyarrow.array([str(number) for number in range(1500)])
    if kind == "one text in every row":
        texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1500, pyarrow.int32()), ["x" * (1 << 23)])
        return pyarrow.table({"id": ids, "text": texts})
    if kind == "one text often in a row":
        texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1500, pyarrow.int32()), ["x" * (1 << 20)])
        lists = pyarrow.ListArray.from_arrays([0, *[1500] * 1500], texts)
        return pyarrow.table({"id": ids, "text": lists})
    if kind == "lists of zeros":
        zeros = pyarrow.array(np.zeros(1500 * 60_000, np.int8))
        return pyarrow.table(
            {"id": ids, "text": pyarrow.ListArray.from_arrays(list(range(0, 90_000_001, 60_000)), zeros)}
        )
    return pyarrow.table({"id": pyarrow.nulls(80_000_000, pyarrow.string())})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one text in every row", "one text often in a row", "lists of zeros", "nulls"])
def test_a_parquet_file_that_unpacks_too_far_is_refused_in_little_memory(tmp_path, kind):
    path = tmp_path / "rows.parquet"
    script = f"""{PEAK}
import pyarrow.parquet
from pathlib import Path
from searchlora.errors import DataError
from searchlora.files import read_rows
before = peak()
try:
    for row in read_rows(Path({str(path)!r})):
        pass
except DataError as error:
    print(error)
print(peak() - before)
"""
    pyarrow.parquet.write_table(table(kind), path, compression="zstd")
    assert path.stat().st_size < 1 << 20
    told, grown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "rows.parquet: the Parquet file unpacks to more than 100 times its size" in told
    assert float(grown) < 1000  # MB


@pytest.mark.slow
def test_a_parquet_file_of_long_texts_is_read_whole(tmp_path):
    """Equal texts are written once; rows that hold them are read a few at a time."""
    texts = ["a" * (1 << 20), "b" * (1 << 20), "c"] * 200
    pyarrow.parquet.write_table(
        pyarrow.table({"text": texts, "list": [[text] for text in texts]}), tmp_path / "a.parquet"
    )
    rows = list(read_rows(tmp_path / "a.parquet"))
    assert [row.data for row in rows] == [{"text": text, "list": [text]} for text in texts]


def test_odd_types_of_parquet_are_rejected_rows(tmp_path):
    odd = {
        "timestamp of an unknown zone": pyarrow.array([1], pyarrow.timestamp("us", tz="Foo/Bar")),
        "date out of range": pyarrow.array([2**31 - 1], pyarrow.date32()),
        "timestamp out of range": pyarrow.array([2**62], pyarrow.timestamp("us")),
        "duration": pyarrow.array([1], pyarrow.duration("ns")),
        "binary": pyarrow.array([b"\xff"]),
        "unsigned": pyarrow.array([2**64 - 1], pyarrow.uint64()),
        "not finite": pyarrow.array([float("inf")]),
        "map": pyarrow.array([[("a", float("nan"))]], pyarrow.map_(pyarrow.string(), pyarrow.float64())),
    }
    for name, values in odd.items():
        pyarrow.parquet.write_table(pyarrow.table({"id": ["1"], "x": values}), tmp_path / "a.parquet")
        (row,) = read_rows(tmp_path / "a.parquet")
        assert isinstance(row, RejectedRow) and row.where == "a.parquet, row 1", name


# Dataset folders


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rows": {"train": "many"}}, "'rows.train'"),
        ({"collection": [1]}, "'collection'"),
        ({"files": {"../../etc/passwd": "0"}}, "'../../etc/passwd' is not in the folder"),
    ],
)
def test_a_card_of_a_dataset_with_a_field_of_another_kind(tmp_path, change, says):
    import json

    from searchlora.data import build

    rows = [{"id": f"r{n}", "group": f"g{n}", "query": f"tent {n} x", "rewrite": f"tent {n}"} for n in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    build("rewriting", tmp_path / "rows.jsonl", format="native", out=tmp_path / "data")
    card = tmp_path / "data" / "dataset.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), **change}))
    with pytest.raises(DataError, match=r"dataset\.json") as told:
        read_card(tmp_path / "data")
    assert says in str(told.value)


@pytest.mark.slow
def test_the_limit_of_gzip_is_that_of_its_unpacked_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(text_module, "MIN_UNPACK_LIMIT", 1 << 20)
    packed = gzip.compress(gzip.compress(b" " * (1 << 28)))  # packed twice: only the outer one is unpacked
    (tmp_path / "rows.jsonl.gz").write_bytes(packed)
    with pytest.raises(DataError, match="is gzip, not text"):
        list(read_rows(tmp_path / "rows.jsonl.gz"))
