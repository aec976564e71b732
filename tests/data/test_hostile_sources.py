"""Damaged sources in every format of every task: each build ends with a dataset or a data error."""

from __future__ import annotations

import gzip
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from searchlora.data import build
from searchlora.errors import SearchloraError
from searchlora.shop import make_shop
from searchlora.task import load_task
from tests.data.layouts import layout
from tests.data.test_judged_formats import esci_pairs

#: Damaged copies of each source.
ROUNDS = 8

#: What takes the place of a token of a text file.
TOKENS = [
    *("NaN", "-Infinity", "1e999", "1e30", "-1", "0", "0.5", "true", "null", "[]", "{}", '""', '" "', "[1]", '[["a"]]'),
    *('{"a": 1}', "9" * 400, "-" + "9" * 30, '"' + "9" * 400 + '"', "9223372036854775808", "[" * 100_000, "[" * 200),
    *(
        '"\\ud800"',
        '"\\u0000"',
        '"a\\nb"',
        '"\\u2028"',
        '"a b"',
        '"' + "x" * 5000 + '"',
        "\0",
        '"',
        "\\",
        "'",
        "\ufeff",
    ),
    *("", "}", "]", ",", "\t", "\n", "\r", "\x0b", "\x85", '"id"', '"text": 3', "\udcff", "é", "\U0001f600"),
]
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|\w+|\S|\s')


def table(name: str, kind: str) -> Callable[[Path], Path]:
    """Rows of a layout as a table of another kind."""

    def make(folder: Path) -> Path:
        rows = [json.loads(line) for line in layout(f"tables/{name}.jsonl", folder).read_text("utf-8").splitlines()]
        path = folder / f"{name}.{kind}"
        if kind == "parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        elif kind in ("csv", "tsv"):
            mark = {"csv": ",", "tsv": "\t"}[kind]
            lines = [rows[0], *(row.values() for row in rows)]
            path.write_text("".join(f"{mark.join(map(str, line))}\n" for line in lines), encoding="utf-8")
        else:
            text = json.dumps(rows) if kind == "json" else "".join(json.dumps(row) + "\n" for row in rows)
            path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
        return path

    return make


#: Task, format and kind of a table -> what writes the source: a function, or a layout and the file in it to build from.
SOURCES: dict[tuple[str, str, str], Callable[[Path], Path] | tuple[str, str]] = {
    **{("rewriting", "native", kind): table("native", kind)
       for kind in ("jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz")},
    **{("rewriting", "querylog", kind): table("querylog", kind) for kind in ("jsonl", "csv", "parquet")},
    ("rewriting", "canard", ""): ("canard", "train.json"),
    ("rewriting", "pairs", ""): ("tables", "pairs.csv"),
    ("rewriting", "mtrag", ""): ("mtrag", "reference.jsonl"),
    ("intent", "csv", ""): ("tables", "labelled.csv"),
    ("judgment", "trec", ""): ("trec", ""),
    ("judgment", "beir", ""): ("beir", ""),
    ("judgment", "cranfield", ""): ("cranfield", ""),
    ("judgment", "esci", ""): lambda folder: esci_pairs(folder, "csv"),
    ("embedding", "pairs", ""): ("tables", "triples.jsonl"),
    ("embedding", "squad", ""): ("squad", "train.json"),
    ("embedding", "clicks", ""): ("clicks", "log.csv"),
    ("embedding", "trec", ""): ("trec", ""),
    ("embedding", "beir", ""): ("beir", ""),
    ("rag_answer", "mtrag", ""): ("mtrag", "reference.jsonl"),
    ("rag_answer", "squad", ""): ("squad", "train.json"),
    ("rag_answer", "faq", ""): ("tables", "faq.json"),
}  # fmt: skip

OPTIONS = {"querylog": {"min_users": "1"}, "clicks": {"documents": "documents.jsonl", "minimum": "1"}}


def written(source: tuple[str, str, str], folder: Path) -> Path:
    """Writes a source; the file or folder to build from."""
    how = SOURCES[source]
    if callable(how):
        return how(folder)
    name, file = how
    return layout(f"{name}/{file}", folder) if name == "tables" else layout(name, folder) / file


def damage(path: Path, rng: random.Random) -> None:
    """Damages one file of a source."""
    raw = path.read_bytes()
    packed = path.suffix == ".gz" and rng.random() < 0.8
    data = gzip.decompress(raw) if packed else raw
    if path.suffix == ".parquet" or (path.suffix == ".gz" and not packed) or rng.random() < 0.25:
        data = damaged_bytes(data, rng)
    else:
        tokens = _TOKEN.findall(data.decode("utf-8"))
        for _ in range(rng.choice((1, 1, 2, 3))):
            tokens[rng.randrange(len(tokens))] = rng.choice(TOKENS)
        data = "".join(tokens).encode("utf-8", "surrogateescape")
    path.write_bytes(gzip.compress(data) if packed else data)


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        place = rng.randrange(len(changed))
        kind = rng.randrange(4)
        if kind == 0:
            changed[place] = rng.randrange(256)
        elif kind == 1:
            del changed[place : place + rng.randrange(1, 20)]
        elif kind == 2:
            changed[place:place] = changed[place : place + rng.randrange(1, 20)]
        else:
            changed[place:place] = rng.choice((b"\xff", b"\0", b"\r", b'"', b"\xed\xa0\x80", b"\xe2\x80\xa8"))
        if not changed:
            return b"x"
    return bytes(changed)


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids="-".join)
def test_a_damaged_source_gives_a_dataset_or_a_data_error(tmp_path: Path, source: tuple[str, str, str]) -> None:
    name, format, _ = source
    task = load_task(name)
    good = tmp_path / "good"
    good.mkdir()
    original = written(source, good)
    rng = random.Random("-".join(source))
    for number in range(ROUNDS):
        bad = tmp_path / f"bad{number}"
        shutil.copytree(good, bad)
        files = sorted(path for path in bad.rglob("*") if path.is_file() and path.stat().st_size)
        damage(rng.choice(files), rng)
        options = {key: str(bad / value) if key == "documents" else value
                   for key, value in OPTIONS.get(format, {}).items()}  # fmt: skip
        try:
            build(task, bad / original.relative_to(good), format=format, out=tmp_path / f"out{number}", options=options,
                  allow_rejects=True, on_leak="drop")  # fmt: skip
        except SearchloraError as error:
            assert str(error)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    make_shop(tmp_path_factory.mktemp("shop") / "shop", products=600, queries=100)
    return next(tmp_path_factory.getbasetemp().glob("shop*/shop"))


@pytest.mark.parametrize("name", ["rewriting", "intent", "judgment", "embedding", "rag_answer"])
def test_a_damaged_shop_gives_a_dataset_or_a_data_error(tmp_path: Path, shop: Path, name: str) -> None:
    task, rng = load_task(name), random.Random(name)
    for number in range(3):
        bad = tmp_path / f"bad{number}"
        shutil.copytree(shop, bad)
        for file in bad.rglob("*.json*"):
            damage(file, rng)
        try:
            build(task, bad, format="shop", out=tmp_path / f"out{number}", allow_rejects=True, on_leak="drop")
        except SearchloraError as error:
            assert str(error)
