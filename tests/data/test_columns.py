"""`--map` for every task, format with columns and kind of file; columns beside the fields of a task are ignored."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from searchlora.data import build, load_dataset
from searchlora.errors import DataError, RejectedRows
from searchlora.files import parse_field_map
from searchlora.task import load_task, load_tasks

KINDS = ("csv", "csv.gz", "tsv", "json", "json.gz", "jsonl", "jsonl.gz", "parquet")
TRAIN = (1.0, 0.0, 0.0)

ANSWERED = [{"f": f"where {n}", "a": f"It is in room {n}."} for n in range(12)]
GRADED = [{"q": "a", "t": "x", "g": grade} for grade in (0, 3)]
PASSAGES = [{"id": "p1", "text": "It is in room 1."}]
LOG = [
    {"visit": f"s{n}", "at": 100 * n + 9 * clicked, "typed": ["telly", "television"][clicked], "hits": clicked}
    for n in range(4)
    for clicked in (0, 1)
]
SHOWN = [
    {"q": f"tent {n % 2}", "sku": f"d{m}", "rank": m + 1, "hit": int(m == n % 2)} for n in range(24) for m in range(2)
]

#: Task, format, rows in a user's own columns, and the map to the fields.
OWN: list[tuple[str, str, list[dict[str, Any]], list[str]]] = [
    ("rewriting", "pairs", [{"typed": "telly", "better": "television", "n": 1}], ["query=typed", "rewrite=better"]),
    ("rewriting", "native", [{"typed": "telly", "better": "television", "n": 1}], ["query=typed", "rewrite=better"]),
    ("rewriting", "queries", [{"typed": "telly", "n": 1}], ["query=typed"]),
    ("rewriting", "querylog", LOG, ["session=visit", "time=at", "query=typed", "clicks=hits"]),
    ("intent", "csv", [{"m": "where", "c": "track"}, {"m": "back", "c": "return"}], ["text=m", "label=c"]),
    ("intent", "native", [{"m": "where", "c": "track"}, {"m": "back", "c": "return"}], ["query=m", "label=c"]),
    ("judgment", "judgments", GRADED, ["query=q", "passage=t,g", "grade=g"]),
    ("judgment", "native", GRADED, ["query=q", "passage=t,g", "grade=g"]),
    ("embedding", "pairs", [{"q": "a", "t": "x", "b": "y"}], ["query=q", "positive=t,b"]),
    ("embedding", "native", [{"q": "a", "t": ["x", "y"]}], ["query=q", "positives=t"]),
    ("embedding", "labelled", [{"m": "where", "c": "track"}, {"m": "back", "c": "return"}], ["text=m", "label=c"]),
    ("embedding", "faq", [{"f": f"where {n}", "a": f"room {n}"} for n in range(3)], ["question=f", "answer=a"]),
    ("embedding", "judgments", GRADED, ["query=q", "passage=t,g", "grade=g"]),
    ("embedding", "clicks", SHOWN, ["query=q", "document=sku", "position=rank", "clicked=hit"]),
    ("rag_answer", "faq", ANSWERED, ["question=f", "answer=a"]),
    (
        "rag_answer",
        "native",
        [{"f": "where", "ctx": PASSAGES, "a": "It is in room 1. [1]", "ok": True, "n": 7}],
        ["question=f", "passages=ctx", "answer=a", "answerable=ok"],
    ),
]  # fmt: skip


def table(folder: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"own.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path

    def cell(value: Any) -> str:
        return json.dumps(value) if isinstance(value, list | bool) else str(value)

    delimiter = "\t" if kind.startswith("tsv") else ","
    quoted = [[cell(value) for value in row.values()] for row in rows]
    if delimiter == ",":
        quoted = [['"' + value.replace('"', '""') + '"' for value in row] for row in quoted]
    text = "\n".join(delimiter.join(row) for row in [list(rows[0]), *quoted])
    if kind.startswith("json"):
        text = json.dumps(rows) if kind.startswith("json.") or kind == "json" else "\n".join(map(json.dumps, rows))
    path.write_bytes(gzip.compress(text.encode()) if kind.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("task", "format", "rows", "columns"), OWN, ids=[f"{task}-{name}" for task, name, *_ in OWN])
def test_columns_are_mapped_in_every_task_and_kind_of_file(tmp_path, kind, task, format, rows, columns):
    given: dict[str, Any] = {}
    if format == "clicks":
        documents = tmp_path / "documents.csv"
        documents.write_text("sku,name\nd0,dome\nd1,boot\n", encoding="utf-8")
        given = {"corpus": documents}
        columns = [*columns, "corpus.id=sku", "corpus.text=name"]
    card = build(task, table(tmp_path, kind, rows), format=format, out=tmp_path / "out", split_ratios=TRAIN,
                 fields=parse_field_map(columns), **given)  # fmt: skip
    assert card.rows["train"] > 0 and not card.rejected
    (record, *_) = load_dataset(tmp_path / "out").records("train")
    assert set(record) <= set(load_task(task).record_schema["properties"])


def test_every_format_with_columns_is_tried_with_a_map():
    mappable = {
        (name, format.name)
        for name, task in load_tasks().items()
        for format in task.formats.values()
        if any(option.type in ("column", "columns") and "." not in key for key, option in format.options.items())
    }
    assert mappable == {(task, format) for task, format, *_ in OWN}


def test_an_id_that_only_some_rows_have_is_missing_in_the_others(tmp_path):
    rows = [{"id": "a", "query": "q1", "rewrite": "r"}, {"query": "q2", "rewrite": "r"}]
    source = table(tmp_path, "jsonl", rows)
    with pytest.raises(RejectedRows, match=r"line 2: 'id' is a required property"):
        build("rewriting", source, format="native", out=tmp_path / "out", split_ratios=TRAIN)


def test_derived_ids_are_distinct_over_the_splits_of_a_folder(tmp_path):
    for split in ("train", "test"):
        text = f"query,rewrite\n{split} telly,television\n{split} sofa,couch\n"
        (tmp_path / f"{split}.csv").write_text(text, encoding="utf-8")
    build("rewriting", tmp_path, format="native", out=tmp_path / "out")
    dataset = load_dataset(tmp_path / "out")
    assert [record["id"] for record in dataset.records("test")] == ["test-1", "test-2"]


def test_ignored_columns_are_named_once_and_bounded(tmp_path):
    rows = [{"query": f"q{n}", "rewrite": "r", **{f"c{n}_{m}": 1 for m in range(30)}} for n in range(20)]
    card = build("rewriting", table(tmp_path, "jsonl", rows), format="native", out=tmp_path / "out", split_ratios=TRAIN)
    (note,) = card.report["notes"]
    assert note.startswith("columns that are no field of the task were ignored: c0_0, c0_1, ")
    assert note.endswith(" and 180 more")


def test_the_corpus_of_a_trec_folder_is_mapped(tmp_path):
    (tmp_path / "topics.tsv").write_text("1\tgreen tent\n", encoding="utf-8")
    (tmp_path / "qrels.txt").write_text("1 0 7 3\n1 0 8 0\n", encoding="utf-8")
    (tmp_path / "corpus.csv").write_text("sku,name,body\n7,Dome,green\n8,Boot,\n", encoding="utf-8")
    fields = parse_field_map(["id=sku", "title=name", "text=body"])
    build("judgment", tmp_path, format="trec", out=tmp_path / "out", fields=fields, split_ratios=TRAIN)
    found = [(record.get("title"), record["passage"]) for record in load_dataset(tmp_path / "out").records("train")]
    assert found == [("Dome", "green"), (None, "Boot")]
    with pytest.raises(DataError, match=r"corpus\.csv, line 2: .*--map corpus\.id=COLUMN"):
        build("judgment", tmp_path, format="trec", out=tmp_path / "other", split_ratios=TRAIN)
