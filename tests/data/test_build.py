"""The dataset builder: splits, leaks, rejected rows, and no partial dataset after an error."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from searchlora.data.building import build
from searchlora.data.dataset import load_dataset, read_card
from searchlora.data.formats import formats_of
from searchlora.errors import DataError, LeakError, RejectedRows, UnknownFormat, UsageError
from searchlora.plugins import Plugin
from searchlora.records import Format
from searchlora.tasks.rewriting import task
from tests.child_scripts import PEAK

Row = dict[str, Any]


def _row(number: int, **changes: Any) -> Row:
    row = {"id": f"r{number}", "group": f"g{number // 3}", "query": f"query {number}", "rewrite": f"better {number}"}
    return {**row, **changes}


def _source(folder: Path, rows: list[Row], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _built(source: Path, out: Path, **options: Any) -> dict[str, list[Row]]:
    build(task, source, format="native", out=out, **options)
    dataset = load_dataset(out)
    return {split: [dict(record) for record in dataset.records(split)] for split in ("train", "validation", "test")}


def _nothing_but(folder: Path, *names: str) -> bool:
    return {path.name for path in folder.iterdir()} == set(names)


@pytest.mark.slow
def test_splits_are_by_group_in_the_requested_shares(tmp_path: Path) -> None:
    splits = _built(_source(tmp_path, [_row(number) for number in range(3000)]), tmp_path / "out")
    groups = {name: {row["group"] for row in rows} for name, rows in splits.items()}
    assert not groups["train"] & groups["test"] and not groups["train"] & groups["validation"]
    assert not groups["validation"] & groups["test"]
    assert sum(map(len, splits.values())) == 3000
    assert len(groups["train"]) == pytest.approx(800, abs=40)
    assert len(groups["test"]) == pytest.approx(100, abs=30)


@pytest.mark.slow
def test_the_split_of_a_group_depends_only_on_the_seed(tmp_path: Path) -> None:
    rows = [_row(number) for number in range(300)]
    first = _built(_source(tmp_path, rows), tmp_path / "first")
    more = _built(_source(tmp_path, [_row(900 + number) for number in range(90)] + rows), tmp_path / "more")
    other = _built(_source(tmp_path, rows), tmp_path / "other", seed=14)
    assert {row["id"] for row in first["test"]} <= {row["id"] for row in more["test"]}
    assert first["test"] != other["test"]


def test_builds_are_reproducible_byte_for_byte(tmp_path: Path) -> None:
    source = _source(tmp_path, [_row(number) for number in range(100)])
    one = build(task, source, format="native", out=tmp_path / "one")
    two = build(task, source, format="native", out=tmp_path / "two")
    assert one == two
    assert load_dataset(tmp_path / "one").fingerprint == load_dataset(tmp_path / "two").fingerprint


def test_the_card_describes_the_folder(tmp_path: Path) -> None:
    rows = [_row(number, query="ab " * (1 + number % 5) + str(number)) for number in range(100)]
    source = _source(tmp_path, rows)
    card = build(task, source, format="native", out=tmp_path / "out", seed=5)
    assert card == read_card(tmp_path / "out")
    assert sum(card.rows.values()) == 100 and sum(card.groups.values()) == 34
    assert card.source == {
        "name": "rows.jsonl",
        "files": {"rows.jsonl": hashlib.sha256(source.read_bytes()).hexdigest()},
    }
    for name, digest in card.files.items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    words = card.text["target"]["words"]
    assert words == {"min": 2, "median": 2, "mean": 2, "p95": 2, "max": 2}
    assert card.text["target"]["characters"]["min"] == len("better 0")
    assert card.text["target"]["characters"]["max"] == len("better 99")
    assert card.text["input"]["words"]["max"] - card.text["input"]["words"]["min"] == 4
    assert str(tmp_path) not in (tmp_path / "out" / "dataset.json").read_text()


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ({"query": ""}, "field 'query'"),
        ({"query": 7}, "field 'query': 7 is not of type 'string'"),
        ({"history": [{"role": "robot", "text": "hi"}]}, "field 'history/0/role': 'robot' is not one of"),
        ({"history": [{"role": "user", "text": "hi", "colour": "red"}]}, "'colour' was unexpected"),
        ({"id": "two words"}, "field 'id'"),
        ({"turn": 0}, "field 'turn'"),
        ({"query": "half \ud83d"}, "a lone surrogate"),
        ({"id": "r0"}, "field 'id': 'r0' was used by an earlier row"),
    ],
)
def test_an_invalid_row_names_row_and_field(tmp_path: Path, changes: Row, reported: str) -> None:
    source = _source(tmp_path, [_row(0), _row(1), _row(2, **changes), _row(3)])
    with pytest.raises(RejectedRows) as raised:
        build(task, source, format="native", out=tmp_path / "out")
    assert "rows.jsonl, line 3" in str(raised.value)
    assert reported in str(raised.value)
    assert "--allow-rejects" in str(raised.value)
    assert _nothing_but(tmp_path, "rows.jsonl", "out.rejected.jsonl")
    listed = [json.loads(line) for line in (tmp_path / "out.rejected.jsonl").read_text().splitlines()]
    assert [line["where"] for line in listed] == ["rows.jsonl, line 3"]
    assert listed[0]["row"] == _row(2, **changes)


def test_rejected_rows_are_listed_in_the_dataset_when_allowed(tmp_path: Path) -> None:
    source = _source(tmp_path, [*(_row(number) for number in range(30)), _row(30, query=" ")])
    with source.open("a") as more:
        more.write("{half a li\n")
    with pytest.raises(RejectedRows, match="2 of 32 rows were rejected"):
        build(task, source, format="native", out=tmp_path / "out")
    card = build(task, source, format="native", out=tmp_path / "out", allow_rejects=True)
    assert sum(card.rejected.values()) == 2
    listed = [json.loads(line)["where"] for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert listed == ["rows.jsonl, line 31", "rows.jsonl, line 32"]
    assert _nothing_but(tmp_path, "rows.jsonl", "out")


def test_no_usable_row_is_an_error_even_when_rejects_are_allowed(tmp_path: Path) -> None:
    source = _source(tmp_path, [{"id": 1}])
    for allowed in (False, True):
        with pytest.raises(
            RejectedRows, match=r"no row is usable, 1 were rejected: rows\.jsonl, line 1: field"
        ) as raised:
            build(task, source, format="native", out=tmp_path / "out", allow_rejects=allowed)
        assert "--allow-rejects" not in str(raised.value)
        assert (tmp_path / "out.rejected.jsonl").exists()
    array = tmp_path / "none.json"
    array.write_text("[]")
    with pytest.raises(DataError, match="holds no usable row"):
        build(task, array, format="native", out=tmp_path / "out")


def test_paths_and_task_may_be_strings(tmp_path: Path) -> None:
    source = _source(tmp_path, [_row(number) for number in range(60)])
    corpus, qrels = tmp_path / "corpus.csv", tmp_path / "qrels.txt"
    corpus.write_text("id,text\np1,shoe\n")
    qrels.write_text("r1 0 p1 1\n")
    out = tmp_path / "text"
    card = build("rewriting", str(source), format="native", out=str(out), corpus=str(corpus), qrels=str(qrels))
    same = build(task, source, format="native", out=tmp_path / "path", corpus=corpus, qrels=qrels)
    assert load_dataset(str(out)).card == card == same
    with pytest.raises(UsageError, match="no task 'rewritin'"):
        build("rewritin", str(source), format="native", out=str(tmp_path / "none"))


def _leaking() -> list[Row]:
    """Thirty groups that all hold the same question, near enough."""
    spellings = ("Where was he born?", "where was he born", " WHERE was  he born? ")
    own = [_row(number) for number in range(90)]
    return own + [_row(100 + n, group=f"g{n}", query=spellings[n % 3], rewrite=f"better {n}") for n in range(30)]


def test_a_leak_is_refused_and_listed(tmp_path: Path) -> None:
    source = _source(tmp_path, _leaking())
    with pytest.raises(LeakError) as raised:
        build(task, source, format="native", out=tmp_path / "out", split_ratios=(0.6, 0.2, 0.2))
    assert "have the same input" in str(raised.value)
    assert "rows.jsonl, line" in str(raised.value)
    assert _nothing_but(tmp_path, "rows.jsonl", "out.leaks.jsonl")
    leaks = [json.loads(line) for line in (tmp_path / "out.leaks.jsonl").read_text().splitlines()]
    assert {leak["split"] for leak in leaks} == {"train", "validation"}
    lines = source.read_text().splitlines()
    for leak in leaks:
        assert json.loads(lines[int(leak["where"].rpartition(" ")[2]) - 1])["id"] == leak["id"]
        assert leak["like_split"] in ("validation", "test")


def test_dropping_leaks_keeps_the_test_split_and_lists_removed_rows(tmp_path: Path) -> None:
    source = _source(tmp_path, _leaking())
    splits = _built(source, tmp_path / "out", split_ratios=(0.6, 0.2, 0.2), on_leak="drop")
    stock = {name: [row for row in rows if "born" in row["query"].lower()] for name, rows in splits.items()}
    assert stock["test"] and not stock["train"] and not stock["validation"]
    card = load_dataset(tmp_path / "out").card
    assert card.leaks["found"] == 30 - len(stock["test"]) == sum(card.leaks["taken out"].values())
    assert sum(card.rows.values()) == 120 - card.leaks["found"]
    gone = {json.loads(line)["id"] for line in (tmp_path / "out" / "leaks.jsonl").read_text().splitlines()}
    assert gone == {f"r{100 + n}" for n in range(30)} - {row["id"] for row in stock["test"]}
    assert card.text["input"]["words"]["max"] >= 5


def test_an_official_test_split_is_kept_and_colliding_training_rows_are_removed(tmp_path: Path) -> None:
    train = [_row(number, split="train", group=f"a{number}") for number in range(200)]
    test = [_row(500 + number, split="test", group=f"b{number}", query=f"QUERY {number}!") for number in range(25)]
    test.append(_row(600, split="test", group="a150", query="its group is in train"))
    splits = _built(_source(tmp_path, [*train, *test]), tmp_path / "out")
    assert [row["id"] for row in splits["test"]] == [row["id"] for row in test]
    left = {row["id"] for row in [*splits["train"], *splits["validation"]]}
    assert left == {f"r{number}" for number in range(25, 200)} - {"r150"}
    assert splits["validation"], "a validation split is made out of training groups"
    card = load_dataset(tmp_path / "out").card
    assert card.official_splits
    assert card.leaks["found"] == 26
    assert {leak["same"] for leak in card.leaks["rows"]} == {"input", "group"}


def test_an_official_validation_split_is_used_without_removing_training_rows(tmp_path: Path) -> None:
    sizes = {"train": 100, "validation": 20, "test": 20}
    rows = [
        _row(start + number, split=split, group=f"{split}{number}")
        for start, (split, size) in enumerate(sizes.items())
        for number in range(start * 1000, start * 1000 + size)
    ]
    assert {name: len(rows) for name, rows in _built(_source(tmp_path, rows), tmp_path / "out").items()} == sizes


def test_a_row_without_split_is_rejected_if_others_have_one(tmp_path: Path) -> None:
    with pytest.raises(RejectedRows, match="field 'split' is missing, while the first row has it"):
        build(task, _source(tmp_path, [_row(0, split="train"), _row(1)]), format="native", out=tmp_path / "out")


def test_limit_ends_reading(tmp_path: Path) -> None:
    source = _source(tmp_path, [*(_row(number) for number in range(40)), {"broken": True}])
    assert sum(build(task, source, format="native", out=tmp_path / "out", limit=40).rows.values()) == 40


@pytest.mark.slow
def test_progress_reports_bytes_and_rows_to_the_end(tmp_path: Path) -> None:
    source = _source(tmp_path, [_row(number) for number in range(20_000)])
    reported: list[tuple[int, int | None, str]] = []
    build(
        task,
        source,
        format="native",
        out=tmp_path / "out",
        progress=lambda done, total, note="": reported.append((done, total, note)),
    )
    assert reported[-1] == (source.stat().st_size, source.stat().st_size, "20,000 rows")
    assert [done for done, _, _ in reported] == sorted(done for done, _, _ in reported)
    assert 0 < reported[1][0] < source.stat().st_size


def test_invalid_arguments_are_refused_before_reading(tmp_path: Path) -> None:
    source = _source(tmp_path, [_row(0)])
    out = tmp_path / "out"
    with pytest.raises(UnknownFormat, match="Known formats: canard"):
        build(task, source, format="nativ", out=out)
    with pytest.raises(UsageError, match="has no option 'colour'"):
        build(task, source, format="pairs", out=out, options={"colour": "red"})
    for shares in ((0.5, 0.1, 0.1), (nan, 0.5, 0.5), (0.8, nan, 0.2), (inf, 0, 0), (-1, 1, 1)):
        with pytest.raises(UsageError, match="are not three that add up to 1"):
            build(task, source, format="native", out=out, split_ratios=shares)
    for limit in (0, -1):
        with pytest.raises(UsageError, match=rf"--limit: the limit is {limit}"):
            build(task, source, format="native", out=out, limit=limit)
    with pytest.raises(UsageError, match="leave nothing for training"):
        build(task, source, format="native", out=out, split_ratios=(0, 0.5, 0.5))
    with pytest.raises(UsageError, match="on_leak"):
        build(task, source, format="native", out=out, on_leak="ignore")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no such file"):
        build(task, tmp_path / "none", format="native", out=out)
    assert _nothing_but(tmp_path, "rows.jsonl")


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    with pytest.raises(DataError, match="already exists"):
        build(task, _source(tmp_path, [_row(0)]), format="native", out=out)
    assert _nothing_but(out, "precious.txt")


def _many(rows: int) -> Iterator[str]:
    for number in range(rows):
        row = _row(number, query=f"query number {number} of very many", history=[])
        yield json.dumps(row) + "\n"


@pytest.mark.slow
def test_building_a_million_rows_uses_less_than_a_gigabyte(tmp_path: Path) -> None:
    """Peak memory at 10,000 and 35,000 rows, and the line through both at a million."""
    peaks = {}
    for rows in (10_000, 35_000):
        source = tmp_path / f"{rows}.jsonl"
        with source.open("w") as out:
            out.writelines(_many(rows))
        script = f"""{PEAK}
from pathlib import Path
from searchlora.data.building import build
from searchlora.tasks.rewriting import task
build(task, Path({str(source)!r}), format="native", out=Path({str(tmp_path / f"out{rows}")!r}))
print(peak())
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        peaks[rows] = float(done.stdout)
    per_row = (peaks[35_000] - peaks[10_000]) / 25_000
    assert peaks[10_000] + per_row * 1_000_000 < 1024


def test_rows_of_a_conversation_stay_in_one_split(tmp_path: Path) -> None:
    """Without a column `group`."""
    rows = []
    for talk in range(40):
        turns = [{"role": "user", "text": f"first {talk}"}, {"role": "assistant", "text": "yes"}]
        rows += [
            {"id": f"{talk}.{n}", "query": f"q {talk} {n}", "history": turns * n, "rewrite": f"better {talk} {n}"}
            for n in (1, 2, 3)
        ]
    splits = _built(_source(tmp_path, rows), tmp_path / "out", split_ratios=(0.4, 0.3, 0.3))
    talks = {name: {row["id"].partition(".")[0] for row in rows} for name, rows in splits.items()}
    assert sum(map(len, talks.values())) == 40 and sum(map(len, splits.values())) == 120


def test_a_file_named_val_is_the_validation_split(tmp_path: Path) -> None:
    for name, start in (("train", 0), ("val", 30), ("test", 60)):
        _source(tmp_path, [_row(start + number) for number in range(9)], f"{name}.jsonl")
    splits = _built(tmp_path, tmp_path / "out")
    assert [row["id"] for row in splits["validation"]] == [f"r{number}" for number in range(30, 39)]


def test_official_splits_without_training_rows_are_refused_with_a_way_out(tmp_path: Path) -> None:
    _source(tmp_path, [_row(number) for number in range(9)], "test.jsonl")
    with pytest.raises(DataError, match="Give one of its files"):
        build(task, tmp_path, format="native", out=tmp_path / "out")


def test_formats_of_other_packages_are_found_and_replace_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> object:
        raise ModuleNotFoundError("no benchmarks", name="benchmarks")

    own = Format("ours", "our export", lambda path, options: iter(()))  # noqa: ARG005
    plugins = {
        "a wheel": Plugin("x", absent),
        "ours": Plugin("y", lambda: lambda name: [own, replace(own, name="pairs")] if name == "rewriting" else []),
    }
    monkeypatch.setattr("searchlora.data.formats.installed_plugins", lambda group, built_in: plugins)  # noqa: ARG005
    found = formats_of(task)
    assert found.keys() - task.formats.keys() == {"ours"} and found["pairs"] is task.formats["pairs"]
