"""Readers of source files: every kind, plain and gzipped, and every kind of malformed input."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from searchlora.errors import DataError, RowError
from searchlora.files import ReadProgress, read_rows, track_reads
from searchlora.records import RejectedRow, SourceRow

ROWS = [{"query": "red shoes", "rewrite": 'shoes, "red"'}, {"query": "zelt für zwei", "rewrite": "tent\u2028for two"}]


def _jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _json(path, rows):
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")


def _csv(path, rows):
    lines = ["query,rewrite", *(f'{row["query"]},"{row["rewrite"].replace(chr(34), chr(34) * 2)}"' for row in rows)]
    path.write_text("\r\n".join(lines) + "\r\n", encoding="utf-8-sig")


def _tsv(path, rows):
    lines = ["query\trewrite", *(f"{row['query']}\t{row['rewrite']}" for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _parquet(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


WRITERS: dict[str, Callable[[Path, list[dict[str, str]]], None]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("ending", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, ending, zipped):
    path = tmp_path / f"rows{ending}"
    WRITERS[ending](path, ROWS)
    if zipped:
        packed = path.with_name(path.name + ".gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    rows = list(read_rows(path, ("query", "rewrite")))
    assert [row.data for row in rows] == ROWS


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    jsonl = tmp_path / "a.jsonl"
    jsonl.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert [row.where for row in read_rows(jsonl)] == ["a.jsonl, line 1", "a.jsonl, line 3"]
    table = tmp_path / "a.csv"
    table.write_text('a,b\n1,"two\nlines"\n3,4\n')
    assert [row.where for row in read_rows(table)] == ["a.csv, line 2", "a.csv, line 4"]
    array = tmp_path / "a.json"
    array.write_text('[\n\n{"a": 1},\n\n{"a": 2}]')
    assert [row.where for row in read_rows(array)] == ["a.json, row 1", "a.json, row 2"]


def test_malformed_lines_are_rejected_and_the_rest_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"query": "ok"}\n{"query": \n[1]\n{"other": 1}\n{"query": "\xff"}\n{"query": "last"}\n')
    rows = list(read_rows(path, ("query",)))
    assert [isinstance(row, SourceRow) for row in rows] == [True, False, False, False, False, True]
    reasons = [row.reason for row in rows if isinstance(row, RejectedRow)]
    assert "is not JSON" in reasons[0]
    assert reasons[1:3] == ["is not a JSON object", "field 'query' is missing"]
    assert "UTF-8" in reasons[3]


def test_malformed_rows_of_a_table_are_rejected_and_the_rest_is_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'a,b\n1,2\n1\n1,2,3\n"x"y,2\n\xff,2\n5,6\n')
    rows = list(read_rows(path, ("a",)))
    assert [row.data for row in rows if isinstance(row, SourceRow)] == [{"a": "1", "b": "2"}, {"a": "5", "b": "6"}]
    rejected = [(row.where, row.reason) for row in rows if isinstance(row, RejectedRow)]
    assert [where for where, _ in rejected] == [f"a.csv, line {line}" for line in (3, 4, 5, 6)]
    assert rejected[0][1] == "has 1 fields where the header has 2"
    assert rejected[3][1] == "is not UTF-8 text"


@pytest.mark.parametrize(
    ("name", "content", "reported"),
    [
        ("a.csv", b"", "the file is empty"),
        ("a.xlsx", b"x", "Known endings: .jsonl"),
        ("a.csv", b"query,other\n1,2\n", "there is no column 'rewrite'; the columns are query, other"),
        ("a.csv", b"query,query\n1,2\n", "column 'query' occurs twice"),
        ("a.csv", b"qu\xffery,rewrite\n1,2\n", "the header is not UTF-8 text"),
        ("a.parquet", b"PAR1 is not enough", "is not a sound Parquet file"),
        ("a.jsonl.gz", b'{"query": 1}', "is not a sound gzip file"),
        ("a.jsonl.gz", gzip.compress(b'{"query": 1, "rewrite": 2}\n' * 1000)[:-20], "the gzip file is cut off"),
        ("a.json", '[{"query": "ü"}]'.encode("latin-1"), "is not UTF-8 text"),
    ],
)
def test_an_unusable_file_is_one_clear_error(tmp_path, name, content, reported):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        list(read_rows(path, ("query", "rewrite")))
    assert reported in str(raised.value)
    assert name in str(raised.value)


def test_a_missing_file_and_a_folder_are_reported_before_iteration(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        read_rows(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_rows(tmp_path / "folder.csv")


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ('[{"a": 1}, {"a": 2', 2),
        ('[{"a": 1} {"a": 2}]', 1),
        ('[{"a": 1},', 2),
        ('[{"a": 1}] trailing', 2),
        ('[{"a": 1}, oops]', 2),
    ],
)
def test_a_broken_json_array_names_the_row(tmp_path, text, row):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(RowError, match=f"a.json, row {row}"):
        list(read_rows(path))


def test_numbers_in_a_json_array_are_rejected_rows(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[12, 34]")
    assert [row.data for row in read_rows(path)] == [12, 34]
    path.write_text("12")
    assert [row.data for row in read_rows(path)] == [12]


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_read_progress_counts_every_byte(tmp_path, ending):
    path = tmp_path / f"rows{ending}"
    WRITERS[ending](path, ROWS * 30_000)
    reported: list[tuple[int, int | None]] = []

    def progress(done, total, note=""):
        del note
        reported.append((done, total))

    meter = ReadProgress(total=path.stat().st_size, progress=progress)
    with track_reads(meter):
        rows = list(read_rows(path))
    assert len(rows) == 60_000
    assert meter.done >= path.stat().st_size
    assert list(meter.files) == [path]
    assert reported == sorted(reported)
    assert len(reported) >= 2 or ending == ".parquet"  # Parquet packs these rows into less than a telling


def test_parquet_nulls_are_none(tmp_path):
    """A null in a required column is kept, so that the schema rejects it; absent optional fields are omitted."""
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"id": "1", "label": None, "more": None, "object": {"category": "x", "brand": None}},
        {"id": "2", "label": "b", "more": 1, "object": {"category": "y", "brand": "z"}},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found = [row.data for row in read_rows(tmp_path / "rows.parquet", ["id", "label"])]
    assert found == [{"id": "1", "label": None, "object": {"category": "x"}}, rows[1]]


def test_whole_numbers_of_a_parquet_column_with_gaps_are_integers(tmp_path):
    """pandas writes integers with gaps as floats, so that the class 3 would be another one than the class 3.0."""
    import pandas

    pandas.DataFrame({"class": [3, None, 4], "price": [2.5, 3.0, 4.25]}).to_parquet(tmp_path / "rows.parquet")
    found = [row.data for row in read_rows(tmp_path / "rows.parquet", ["class"])]
    assert repr(found) == "[{'class': 3, 'price': 2.5}, {'class': None, 'price': 3}, {'class': 4, 'price': 4.25}]"


def test_a_tsv_of_pandas_and_one_without_quotes_hold_the_same_texts(tmp_path):
    """pandas doubles quotes and quotes their fields; a search log quotes nothing."""
    import pandas

    rows = [{"query": '"red shoes"', "title": '24" monitor'}, {"query": 'a "quoted" tent', "title": "plain"}]
    pandas.DataFrame(rows).to_csv(tmp_path / "pandas.tsv", sep="\t", index=False)
    pandas.DataFrame(rows).to_csv(tmp_path / "all.tsv", sep="\t", index=False, quoting=1)
    _tsv(tmp_path / "log.tsv", [{"query": row["query"], "rewrite": row["title"]} for row in rows])
    assert [row.data for row in read_rows(tmp_path / "pandas.tsv")] == rows
    assert [row.data for row in read_rows(tmp_path / "all.tsv")] == rows
    assert [list(row.data.values()) for row in read_rows(tmp_path / "log.tsv")] == [list(r.values()) for r in rows]


def test_a_long_field_does_not_break_its_row(tmp_path):
    long = "word, word\n" * 20_000
    (tmp_path / "rows.csv").write_text(f'a,b\n1,"{long}"\n2,c\n', encoding="utf-8")
    assert [row.data for row in read_rows(tmp_path / "rows.csv")] == [{"a": "1", "b": long}, {"a": "2", "b": "c"}]
