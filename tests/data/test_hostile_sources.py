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
from tests.data.test_judged_formats import beir_folder, cranfield_folder, esci_folder, trecdl_folder

#: Damaged copies of each source.
ROUNDS = 8

NAMES = ["tent", "stove", "boot", "rope", "mug", "axe", "map", "lamp"]

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


def json_rows(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def squad(folder: Path) -> Path:
    articles = [
        {
            "title": f"The {name}",
            "paragraphs": [
                {
                    "context": f"A {name} weighs {n} kilograms. It is green.",
                    "qas": [
                        {
                            "id": f"q{n}",
                            "question": f"How heavy is a {name}?",
                            "answers": [{"text": f"{n} kilograms", "answer_start": 10 + len(name)}],
                        },
                        {"id": f"i{n}", "question": "Why?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
        for n, name in enumerate(NAMES)
    ]
    (folder / "train.json").write_text(json.dumps({"data": articles}), encoding="utf-8")
    return folder / "train.json"


def canard(folder: Path) -> Path:
    rows = [
        {
            "History": [name, "Uses", "What is it?", f"A {name}."],
            "QuAC_dialog_id": f"C_{n}",
            "Question": "Why?",
            "Question_no": 2,
            "Rewrite": f"Why is it a {name}?",
        }
        for n, name in enumerate(NAMES)
    ]
    first = [{**row, "History": row["History"][:2], "Question_no": 1, "Question": "What is it?"} for row in rows]
    (folder / "train.json").write_text(json.dumps([*first, *rows]), encoding="utf-8")
    return folder / "train.json"


def qrecc(folder: Path) -> Path:
    rows = [
        {
            "Conversation_no": n,
            "Turn_no": 1,
            "Context": ["a", "b"],
            "Question": f"why {name}",
            "Rewrite": f"why {name}?",
        }
        for n, name in enumerate(NAMES)
    ]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder / "rows.json"


def cast(tree: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        topics = []
        for n, name in enumerate(NAMES):
            users = [
                {
                    "number": f"{k}-1" if tree else k,
                    "utterance": f"{name} {k}",
                    "manual_rewritten_utterance": f"the {name} {k}",
                }
                for k in (1, 3)
            ]
            if tree:
                answer = {"number": "2-1", "participant": "System", "response": "yes", "parent": "1-1"}
                users = [
                    {**users[0], "participant": "User"},
                    answer,
                    {**users[1], "participant": "User", "parent": "2-1"},
                ]
            topics.append({"number": n, "turn": users})
        (folder / "topics.json").write_text(json.dumps(topics), encoding="utf-8")
        return folder / "topics.json"

    return make


def cast_2019(folder: Path) -> Path:
    topics = [{"number": n, "turn": [{"number": 1, "raw_utterance": f"{name}?"}]} for n, name in enumerate(NAMES)]
    (folder / "topics.json").write_text(json.dumps(topics), encoding="utf-8")
    rewrites = "".join(f"{n}_1\tthe {name}?\n" for n, name in enumerate(NAMES))
    (folder / "x_annotated_resolved_y.tsv").write_text(rewrites, encoding="utf-8")
    return folder / "topics.json"


def mtrag(folder: Path) -> Path:
    rows = [
        {
            "task_id": f"t{n}<::>1",
            "conversation_id": f"c{n}",
            "input": [{"speaker": "user", "text": f"what is a {name}?"}],
            "contexts": [{"document_id": f"d{n}", "title": name, "text": f"A {name} is a thing. It is green."}],
            "targets": [{"text": f"A {name} is a thing."}],
            "answerability": ["ANSWERABLE"],
            "Collection": "shop",
        }
        for n, name in enumerate(NAMES)
    ]
    (folder / "reference.jsonl").write_text(json_rows(rows), encoding="utf-8")
    return folder / "reference.jsonl"


def table(name: str, columns: dict[str, Callable[[int, str], object]], count: int = 24) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        rows = [{key: of(n, NAMES[n % len(NAMES)]) for key, of in columns.items()} for n in range(count)]
        path = folder / name
        if name.endswith(".parquet"):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        elif name.endswith((".csv", ".tsv")):
            mark = "," if name.endswith(".csv") else "\t"
            lines = [mark.join(columns), *(mark.join(map(str, row.values())) for row in rows)]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        elif name.endswith(".gz"):
            path.write_bytes(gzip.compress(json_rows(rows).encode()))
        else:
            path.write_text(json.dumps(rows) if name.endswith(".json") else json_rows(rows), encoding="utf-8")
        return path

    return make


PAIRS = {"query": lambda n, name: f"{name} {n} x", "rewrite": lambda n, name: f"{name} {n} better"}
RECORDS = {"id": lambda n, _: f"r{n}", "group": lambda n, _: f"g{n}", **PAIRS}
LOG = {
    "session": lambda n, _: f"s{n // 3}",
    "time": lambda n, _: 1_700_000_000 + 10 * n,
    "query": lambda n, _: ["kicks", "red kicks", "red shoes"][n % 3],
    "clicks": lambda n, _: n % 3 // 2,
}
CLICKS = {
    "query": lambda n, _: NAMES[n // 4 % 6],
    "document": lambda n, _: f"d{n % 4}",
    "position": lambda n, _: n % 4 + 1,
    "clicked": lambda n, _: int(n % 3 == 0),
}
LABELLED = {"text": lambda n, name: f"a {name} {n}", "label": lambda n, _: "ab"[n % 2]}
FAQ = {"question": lambda n, name: f"what is {name} {n}", "answer": lambda n, name: f"the {name} is number {n}."}
TRIPLES = {
    "query": lambda n, name: f"{name} {n}",
    "positive": lambda n, name: f"the {name} {n}",
    "negative": lambda *_: "no",
}


def trec(folder: Path) -> Path:
    (folder / "collection.tsv").write_text("d1\tA tent.\nd2\tPegs, idle.\nd3\tA boot.\n", encoding="utf-8")
    (folder / "topics.tsv").write_text("5\twhat is a tent\n6\twhat is a boot\n", encoding="utf-8")
    (folder / "qrels.txt").write_text("5 0 d1 3\n5 0 d2 0\n6 0 d3 1\n", encoding="utf-8")
    return folder


def clinc150(folder: Path) -> Path:
    parts = {f"{kind}{split}": [[f"{kind} {split} {n}", "oos" if kind else "ab"[n % 2]] for n in range(8)]
             for kind in ("", "oos_") for split in ("train", "val", "test")}  # fmt: skip
    (folder / "data_full.json").write_text(json.dumps(parts), encoding="utf-8")
    return folder / "data_full.json"


def clicks(folder: Path) -> Path:
    documents = [{"id": f"d{n}", "text": f"the {NAMES[n]}"} for n in range(4)]
    (folder / "documents.jsonl").write_text(json_rows(documents), encoding="utf-8")
    return table("log.csv", CLICKS, 96)(folder)


SOURCES: dict[tuple[str, str, str], Callable[[Path], Path]] = {
    **{("rewriting", "native", ending): table(f"rows{ending}", RECORDS)
       for ending in (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz")},
    ("rewriting", "canard", ""): canard,
    ("rewriting", "qrecc", ""): qrecc,
    ("rewriting", "cast2019", ""): cast_2019,
    ("rewriting", "cast2020", ""): cast(tree=False),
    ("rewriting", "cast2022", ""): cast(tree=True),
    ("rewriting", "pairs", ""): table("pairs.csv", PAIRS),
    ("rewriting", "mtrag", ""): mtrag,
    **{("rewriting", "querylog", ending): table(f"log{ending}", LOG, 60) for ending in (".jsonl", ".csv", ".parquet")},
    ("intent", "clinc150", ""): clinc150,
    ("intent", "csv", ""): table("rows.csv", LABELLED),
    ("judgment", "trecdl", ""): trecdl_folder,
    ("judgment", "trec", ""): trec,
    ("judgment", "beir", ""): beir_folder,
    ("judgment", "cranfield", ""): cranfield_folder,
    ("judgment", "esci", ""): esci_folder,
    ("embedding", "pairs", ""): table("pairs.jsonl", TRIPLES),
    ("embedding", "squad", ""): squad,
    ("embedding", "clicks", ""): clicks,
    ("embedding", "trec", ""): trec,
    ("embedding", "beir", ""): beir_folder,
    ("rag_answer", "mtrag", ""): mtrag,
    ("rag_answer", "squad", ""): squad,
    ("rag_answer", "faq", ""): table("faq.json", FAQ),
}  # fmt: skip

OPTIONS = {"querylog": {"min_users": "1"}, "clicks": {"documents": "documents.jsonl", "minimum": "1"}}


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
    made = SOURCES[source](good)
    rng = random.Random("-".join(source))
    for number in range(ROUNDS):
        bad = tmp_path / f"bad{number}"
        shutil.copytree(good, bad)
        files = sorted(path for path in bad.rglob("*") if path.is_file() and path.stat().st_size)
        damage(rng.choice(files), rng)
        options = {key: str(bad / value) if key == "documents" else value
                   for key, value in OPTIONS.get(format, {}).items()}  # fmt: skip
        try:
            build(task, bad / made.relative_to(good), format=format, out=tmp_path / f"out{number}", options=options,
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
