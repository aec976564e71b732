"""Files that are not what their names say, and files of odd values: an error in words that names the place."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from searchlora.data import build
from searchlora.data.dataset import read_card
from searchlora.errors import DataError, SearchloraError
from searchlora.eval.policy import read_policy
from searchlora.experiments.spec import read_experiment
from searchlora.files import RejectedRow, atomic_text, check_writable, open_text, read_rows, read_text
from searchlora.pipelines.config import read_pipeline
from searchlora.recipe import load_recipe

SMALL: dict[str, Callable[[Path], Any]] = {
    "text": read_text,
    "recipe": lambda path: load_recipe({}, path),
    "pipeline": lambda path: read_pipeline(str(path)),
    "policy": read_policy,
    "experiment": read_experiment,
}


@pytest.mark.parametrize("read", SMALL.values(), ids=SMALL)
def test_a_large_file_where_a_small_one_belongs(tmp_path, read):
    (tmp_path / "log.yaml").write_text("a: b\n" * (1 << 21))
    with pytest.raises(SearchloraError, match="has more than 8,388,608 bytes"):
        read(tmp_path / "log.yaml")


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
        (lambda data: b"\x28\xb5\x2f\xfd" + data, "is Zstandard, not text"),
        (lambda data: b"PK\x03\x04" + data, "is a ZIP archive or an Excel file, not text"),
        (lambda data: b"PAR1" + data, "is Parquet, not text"),
        (lambda data: data.decode().encode("utf-16"), "is UTF-16 text, not UTF-8"),
        (lambda data: b"\xfe\xff" + data.decode().encode("utf-16-be"), "is UTF-16 text, not UTF-8"),
    ],
)
@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "jsonl.gz"])
def test_what_a_file_is_instead_of_text_is_named(tmp_path, pack, kind, ending):
    content = pack(b'{"id": "1"}\n' * 20)
    (tmp_path / f"rows.{ending}").write_bytes(gzip.compress(content) if ending.endswith(".gz") else content)
    with pytest.raises(DataError, match=rf"rows\.{ending}.* {kind}"):
        list(read_rows(tmp_path / f"rows.{ending}"))


def test_gzip_is_recognised_in_capital_letters(tmp_path):
    (tmp_path / "ROWS.JSONL.GZ").write_bytes(gzip.compress(b'{"id": "1"}\n'))
    assert [row.data for row in read_rows(tmp_path / "ROWS.JSONL.GZ")] == [{"id": "1"}]
    with atomic_text(tmp_path / "OUT.TXT.GZ") as out:
        out.write("text")
    assert gzip.decompress((tmp_path / "OUT.TXT.GZ").read_bytes()) == b"text"
    with open_text(tmp_path / "OUT.TXT.GZ") as file:
        assert file.read() == "text"


@pytest.mark.parametrize(
    "values",
    [
        pyarrow.array([2**31 - 1], pyarrow.date32()),
        pyarrow.array([2**62], pyarrow.timestamp("us")),
        pyarrow.array([1], pyarrow.timestamp("us", tz="Foo/Bar")),
        pyarrow.array([1], pyarrow.duration("ns")),
        pyarrow.array([b"\xff"]),
        pyarrow.array([2**64 - 1], pyarrow.uint64()),
        pyarrow.array([float("inf")]),
        pyarrow.array([[("a", float("nan"))]], pyarrow.map_(pyarrow.string(), pyarrow.float64())),
    ],
    ids=lambda values: str(values.type),
)
def test_a_type_of_parquet_that_no_record_has_is_named(tmp_path, values):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"id": ["1"], "x": values}), path)
    try:
        (row,) = read_rows(path)
    except DataError as error:
        assert "a.parquet: is not a sound Parquet file" in str(error)
    else:
        assert isinstance(row, RejectedRow) and row.where == "a.parquet, row 1"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rows": {"train": "many"}}, "'rows.train'"),
        ({"collection": [1]}, "'collection'"),
        ({"files": {"../../etc/passwd": "0"}}, "'../../etc/passwd' is not in the folder"),
    ],
)
def test_a_card_of_a_dataset_with_a_field_of_another_kind(tmp_path, change, says):
    rows = [{"id": f"r{n}", "group": f"g{n}", "query": f"tent {n} x", "rewrite": f"tent {n}"} for n in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    build("rewriting", tmp_path / "rows.jsonl", format="native", out=tmp_path / "data")
    card = tmp_path / "data" / "dataset.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), **change}))
    with pytest.raises(DataError, match=r"dataset\.json") as told:
        read_card(tmp_path / "data")
    assert says in str(told.value)
