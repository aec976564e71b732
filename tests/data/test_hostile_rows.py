"""Unusable rows are rejected with their position, and the build continues; limits, kills and full disks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from searchlora.data import build
from searchlora.data.formats.common import mapped
from searchlora.errors import DataError, RejectedRows, UsageError
from searchlora.files import read_rows
from searchlora.records import RejectedRow


def record(number: int, **changes: Any) -> str:
    row = {"id": f"r{number}", "group": f"g{number}", "query": f"tent {number} x", "rewrite": f"tent {number} better"}
    return json.dumps({**row, **changes})


def event(number: int, **changes: Any) -> str:
    queries = ["kicks", "red kicks", "red shoes"]
    row = {"session": f"s{number // 3}", "time": 1_700_000_000 + 10 * number, "query": queries[number % 3]}
    return json.dumps({**row, "clicks": number % 3 // 2, **changes})


def rejected(out: Path) -> list[tuple[str, str]]:
    lines = (out / "rejected.jsonl").read_text(encoding="utf-8").strip("\n").split("\n")
    return [(row["where"], row["reason"]) for row in map(json.loads, lines)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[" * 100_000, "nested deeper than 100"),
        ('{"id": "x", "group": "g", "query": NaN, "rewrite": "b"}', "NaN is not a finite number"),
        ('{"id": "x", "group": "g", "query": "a\\ud800", "rewrite": "b"}', "lone surrogate"),
        ('{"id": "x", "group": "g", "query": "a\\u0000", "rewrite": "b"}', "NUL character"),
        (record(99, id="x\n"), "field 'id'"),
        (record(99, id="x\u2028y"), "field 'id'"),
        (record(99, id="\x7f"), "field 'id'"),
    ],
)
@pytest.mark.parametrize("array", [False, True])
def test_an_unusable_row_is_rejected_with_its_position(tmp_path: Path, line: str, reason: str, array: bool) -> None:
    rows = [*map(record, range(15)), line, *map(record, range(15, 30))]
    source = tmp_path / ("rows.json" if array else "rows.jsonl")
    source.write_text("[" + ",\n".join(rows) + "]" if array else "\n".join(rows), encoding="utf-8")
    if array and ("[[" in line or "NaN" in line or "ud800" in line):  # a fault of the JSON itself ends an array
        with pytest.raises(DataError, match=r"rows\.json, row 16"):
            build("rewriting", source, format="native", out=tmp_path / "out", allow_rejects=True)
        return
    card = build("rewriting", source, format="native", out=tmp_path / "out", allow_rejects=True)
    ((where, why),) = rejected(tmp_path / "out")
    assert where == ("rows.json, row 16" if array else "rows.jsonl, line 16")
    assert reason in why
    assert sum(card.rows.values()) == 30


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"clicks": 1e30}, "is not a number of clicks"),
        ({"clicks": "1e30"}, "is not a number of clicks"),
        ({"clicks": 2**62}, "is not a number of clicks"),
        ({"clicks": "9" * 400}, "is not a number of clicks"),
        ({"clicks": "nan"}, "is not a number of clicks"),
        ({"time": "9" * 5000}, "neither seconds nor ISO 8601"),
        ({"time": 1e30}, "neither seconds nor ISO 8601"),
        ({"query": "half \ud83d"}, "lone surrogate"),
        ({"session": "half \ud83d"}, "lone surrogate"),
        ({"query": "a\0b"}, "NUL character"),
        ({"session": "a\0b"}, "NUL character"),
        ({"query": "x" * 10_001}, "more than 10,000 characters"),
    ],
)
def test_an_unusable_query_log_row_is_rejected_with_its_position(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    rows = [*map(event, range(20)), event(20, **changes), *map(event, range(20, 60))]
    (tmp_path / "log.jsonl").write_text("\n".join(rows), encoding="utf-8")
    options = {"min_users": "1"}
    build("rewriting", tmp_path / "log.jsonl", format="querylog", out=tmp_path / "out", options=options,
          allow_rejects=True)  # fmt: skip
    ((where, why),) = rejected(tmp_path / "out")
    assert where == "log.jsonl, line 21"
    assert reason in why


GOOD: dict[tuple[str, str], dict[str, Any]] = {
    ("rewriting", "native"): {"id": "r%", "group": "g%", "query": "tent % x", "rewrite": "tent %", "protected": ["%"]},
    ("rewriting", "pairs"): {"query": "tent % x", "rewrite": "tent %"},
    ("rewriting", "queries"): {"query": "tent % x"},
    ("intent", "csv"): {"text": "tent % x", "label": "l"},
    ("embedding", "pairs"): {"query": "tent % x", "positive": "the tent %"},
    ("embedding", "faq"): {"question": "why tent %?", "answer": "because %"},
    ("embedding", "labelled"): {"text": "tent % x", "label": "l"},
    ("judgment", "native"): {"id": "q% d%", "group": "%", "query": "%", "passage": "%", "grade": 1, "votes": {"1": 2}},
    ("judgment", "judgments"): {"query": "tent % x", "passage": "the tent %", "grade": 1},
    ("judgment", "esci"): {"query": "tent % x", "product_id": "p%", "product_locale": "us", "esci_label": "E",
                           "product_title": "tent %"},
}  # fmt: skip

#: Values that are neither text nor null-free text, and a field of which each of them makes the row unusable.
ODD: list[Any] = [None, 7, 1.5, True, [], ["a", None], {}, {"a": None}]
FIELDS = {
    "protected": [7, 1.5, True, {"a": 1}, "a", [None]],
    "votes": [7, True, [], "2", {"a": 1}, {"1": "2"}, {"1": []}],
}
CHECKED = ("query", "rewrite", "text", "positive", "question", "answer", "passage", "protected", "votes")


def made_row(row: dict[str, Any], number: int) -> dict[str, Any]:
    return json.loads(json.dumps(row).replace("%", str(number)))


@pytest.mark.parametrize(("task", "format"), GOOD, ids=map("-".join, GOOD))
def test_a_field_of_another_type_rejects_its_row_and_no_other(tmp_path: Path, task: str, format: str) -> None:
    """Readers compare, hash and normalise texts; a null or a number must not reach that."""
    row = GOOD[task, format]
    faulty = [
        {**made_row(row, 100 + number), field: value}
        for number, (field, value) in enumerate(
            (field, value) for field in row if field in CHECKED for value in FIELDS.get(field, ODD)
        )
        if not (format == "judgments" and isinstance(value, int | float) and value is not True)  # read as text
    ]
    rows = [made_row(row, number) for number in range(30)]
    if "label" in row:
        rows = [{**each, "label": "ab"[number % 2]} for number, each in enumerate(rows)]
    rows[15:15] = faulty
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    build(task, source, format=format, out=tmp_path / "out", allow_rejects=True, on_leak="drop")
    assert [where for where, _ in rejected(tmp_path / "out")] == [
        f"rows.jsonl, line {number}" for number in range(16, 16 + len(faulty))
    ]


@pytest.mark.parametrize("value", [None, 7, 1.5, True, ["a"], {"a": 1}])
def test_a_parquet_column_of_another_type_rejects_its_rows(tmp_path: Path, value: Any) -> None:
    import pyarrow
    import pyarrow.parquet

    table = {"query": [value] * 5, "rewrite": ["tent"] * 5}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "rows.parquet")
    with pytest.raises(RejectedRows, match=r"rows.parquet, row 1: field 'query': .* is not text"):
        build("rewriting", tmp_path / "rows.parquet", format="pairs", out=tmp_path / "out", allow_rejects=True)


def test_a_row_that_a_converter_raises_for_is_rejected(tmp_path: Path) -> None:
    """A reader of a third-party format may assume more of a row than its file holds."""
    (tmp_path / "rows.jsonl").write_text('{"a": {"b": 1}}\n{"a": null}\n{}\n{"a": {"b": 2}}\n')
    read = mapped(lambda source, _: read_rows(source), lambda row: {"b": row["a"]["b"]})
    found = list(read(tmp_path / "rows.jsonl", {}))
    assert [isinstance(row, RejectedRow) for row in found] == [False, True, True, False]
    assert found[1].reason.startswith("is not a row of this format (TypeError")
    assert found[1].where == "rows.jsonl, line 2"


def test_a_pair_is_not_graded_with_and_without_a_rater(tmp_path: Path) -> None:
    row = {"query": "tent", "document": "d1", "passage": "a tent", "grade": 1}
    rows = [row, {**row, "rater": "ann"}, {**row, "document": "d2", "rater": "ann"}, {**row, "document": "d2"}]
    rows += [{**row, "query": f"boot {number}", "grade": number % 3} for number in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    build("judgment", tmp_path / "rows.jsonl", format="judgments", out=tmp_path / "out", allow_rejects=True)
    assert rejected(tmp_path / "out")[:2] == [
        ("rows.jsonl, line 2", "the pair has a grade without a rater in an earlier row"),
        ("rows.jsonl, line 4", "the pair has a grade with a rater in an earlier row"),
    ]


@pytest.mark.parametrize(
    ("option", "value"),
    [("window", "nan"), ("window", "-1"), ("similarity", "2"), ("min_clicks", "0"), ("min_users", "9" * 400)],
)
def test_a_threshold_out_of_range_is_refused(tmp_path: Path, option: str, value: str) -> None:
    (tmp_path / "log.jsonl").write_text("\n".join(map(event, range(60))), encoding="utf-8")
    with pytest.raises(UsageError, match=f"option {option}: .* is not a "):
        build("rewriting", tmp_path / "log.jsonl", format="querylog", out=tmp_path / "out", options={option: value})


def test_an_unclosed_quote_is_named_by_the_line_that_opens_it(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('a,b\n1,2\n3,"open\n4,5\n6,7\n', encoding="utf-8")
    good, bad = read_rows(tmp_path / "rows.csv")
    assert good.where == "rows.csv, line 2"
    assert isinstance(bad, RejectedRow) and bad.where == "rows.csv, line 3" and "unexpected end of data" in bad.reason


BUILD = """
import sys
from searchlora.data import build
source, out = sys.argv[1:]
build("rewriting", source, format="querylog", out=out, options={"min_users": "1"})
"""


def build_in_process(source: Path, out: Path, temporary: Path) -> subprocess.Popen[str]:
    temporary.mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(temporary), "SQLITE_TMPDIR": str(temporary)}
    command = [sys.executable, "-c", BUILD, str(source), str(out)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_the_temporary_query_log_of_a_killed_build_is_removed_by_the_next(tmp_path: Path) -> None:
    work, temporary, source = tmp_path / "work", tmp_path / "temporary", tmp_path / "log.jsonl"
    work.mkdir()
    source.write_text("\n".join(event(number) for number in range(150_000)), encoding="utf-8")
    process = build_in_process(source, work / "out", temporary)
    while not list(work.iterdir()):
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(temporary.rglob("*")) == []
    assert [path.name.startswith(".out.") for path in work.iterdir()] == [True]
    source.write_text("\n".join(event(number, query=f"q{number} {number % 7} a") for number in range(90)))
    assert build_in_process(source, work / "out", temporary).wait() == 0
    assert [path.name for path in work.iterdir()] == ["out"]


def test_the_list_of_rejected_rows_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A packed file of a megabyte can hold millions of short lines; each would take a longer one in the list."""
    monkeypatch.setattr("searchlora.data.validation.MAX_LISTED", 10)
    rows = [*map(record, range(30)), *["[]"] * 100]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(DataError, match=r"100 of 130 rows were rejected: .* The first 10 are listed in"):
        build("rewriting", tmp_path / "rows.jsonl", format="native", out=tmp_path / "out")
    card = build("rewriting", tmp_path / "rows.jsonl", format="native", out=tmp_path / "out", allow_rejects=True)
    assert sum(card.rejected.values()) == 100
    assert len(rejected(tmp_path / "out")) == 10
