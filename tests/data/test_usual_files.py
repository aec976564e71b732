"""Files as spreadsheets, databases and annotation tools write them are read as they are meant."""

from __future__ import annotations

import json

import pytest

from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.errors import DataError, RejectedRows
from searchlora.experiments.label import _records
from searchlora.task import load_generation_task


def built(tmp_path, task, source, format, **options):
    """Training rows and the card; all rows are for training unless the source has splits."""
    out = tmp_path / "built"
    card = build(task, source, format=format, out=out, split_ratios=(1.0, 0.0, 0.0), **options)
    return load_dataset(out), card


def written(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    "text",
    [
        "question;answer\nred tent, large;yes\n",
        "sep=;\nquestion;answer\nred tent, large;yes\n",
        "question\tanswer\nred tent, large\tyes\n",
        '"question";"answer"\n"red tent, large";"yes"\n',
        'question,answer,,\n"red tent, large",yes,,\n',
    ],
    ids=["semicolon", "sep", "tab", "quoted", "empty columns"],
)
def test_a_csv_of_a_spreadsheet_has_the_delimiter_of_its_header(tmp_path, text):
    data, _ = built(tmp_path, "embedding", written(tmp_path / "faq.csv", text), "faq")
    (record,) = data.records("train")
    assert (record["query"], record["positives"]) == ("red tent, large", ["yes"])


def test_ids_and_truth_values_of_a_database_are_read(tmp_path):
    rows = '[{"id": 7, "group": 3, "query": "red one", "rewrite": "red tent", "needs_rewrite": "TRUE"}]'
    data, _ = built(tmp_path, "rewriting", written(tmp_path / "rows.json", rows), "native")
    (record,) = data.records("train")
    assert (record["id"], record["group"], record["needs_rewrite"]) == ("7", "3", True)


def test_files_of_options_have_the_encoding_too(tmp_path):
    pairs = written(tmp_path / "pairs.csv", "query,rewrite\ncafé rouge,café crème rouge\n", "latin-1")
    words = written(tmp_path / "brands.txt", "café\n", "latin-1")
    how = {"options": {"protected": str(words)}, "encoding": "latin-1"}
    data, _ = built(tmp_path, "rewriting", pairs, "pairs", **how)
    assert data.records("train")[0]["protected"] == ["café"]


@pytest.mark.parametrize("ending", [".clicks.jsonl", ".probabilities.jsonl"])
def test_what_is_written_beside_labels_is_no_row_to_learn(tmp_path, ending):
    row = {"id": "1", "group": "1", "query": "red tent", "rewrite": "red tent"}
    folder = tmp_path / "labelled"
    written(folder / "train.jsonl", json.dumps(row) + "\n")
    written(folder / f"train.jsonl{ending}", json.dumps({**row, "id": "2", "group": "2", "query": "unsure"}) + "\n")
    data, _ = built(tmp_path, "rewriting", folder, "native")
    assert [record["query"] for record in data.records("train")] == ["red tent"]


@pytest.mark.parametrize("negative", ['["blue lamp", "green lamp"]', '"blue lamp"', "null", '""'])
def test_negatives_are_a_text_or_a_list(tmp_path, negative):
    row = f'{{"query": "tent", "positive": "red tent", "negative": {negative}}}\n'
    data, _ = built(tmp_path, "embedding", written(tmp_path / "pairs.jsonl", row), "pairs")
    wanted = json.loads(negative) or []
    assert data.records("train")[0].get("negatives", []) == ([wanted] if isinstance(wanted, str) else wanted)
    with pytest.raises(RejectedRows, match="neither a text nor a list of texts"):
        bad = written(tmp_path / "bad.jsonl", row.replace(negative, "7"))
        build("embedding", bad, format="pairs", out=tmp_path / "other")


def test_a_query_of_two_splits_is_a_leak_and_stays_in_the_test_split(tmp_path):
    for split, queries in (("train", ["red tent", "blue"]), ("test", ["red tent", "green"])):
        lines = "".join(json.dumps({"query": query}) + "\n" for query in queries)
        written(tmp_path / "queries" / f"{split}.jsonl", lines)
    data, card = built(tmp_path, "rewriting", tmp_path / "queries", "queries")
    assert [[record["query"] for record in data.records(split)] for split in ("train", "test")] == [
        ["blue"],
        ["red tent", "green"],
    ]
    assert card.leaks


def test_a_pair_of_two_splits_stays_in_the_test_split(tmp_path):
    rows = (
        "query,document,passage,grade,split\nred,1,a red tent,1,train\nred,1,a red tent,1,test\nblue,2,a bag,0,train\n"
    )
    data, _ = built(tmp_path, "judgment", written(tmp_path / "pairs.csv", rows), "judgments")
    assert [[record["query"] for record in data.records(split)] for split in ("train", "test")] == [["blue"], ["red"]]


def test_a_malformed_click_is_rejected_and_not_the_log(tmp_path):
    rows = [f"tent,{document},{position},{int(document == 2)}\n" for document in (1, 2) for position in (1, 2)] * 9
    log = written(tmp_path / "clicks.csv", "query,document,position,clicked\n" + "".join(rows) + "tent,,2,1\n")
    corpus = written(tmp_path / "corpus.csv", "id,text\n1,a lamp\n2,a tent\n")
    with pytest.raises(RejectedRows, match="field document"):
        build("embedding", log, format="clicks", out=tmp_path / "refused", corpus=corpus)
    data, card = built(tmp_path, "embedding", log, "clicks", corpus=corpus, allow_rejects=True)
    assert (data.records("train")[0]["positives"], sum(card.rejected.values())) == (["a tent"], 1)


def test_whole_grades_may_have_decimals(tmp_path):
    rows = "query,document,passage,grade\nred,1,a red tent,3.00\nred,2,a bag,0.000\n"
    data, _ = built(tmp_path, "judgment", written(tmp_path / "pairs.csv", rows), "judgments")
    assert sorted(record["grade"] for record in data.records("train")) == [0, 3]


def test_rows_to_label_are_read_as_the_task_asks_about_them(tmp_path):
    task = load_generation_task("rewriting")
    turn = '[{""role"": ""user"", ""text"": ""tents""}]'
    table = written(tmp_path / "rows.csv", f'id,query,history\n7,red one,"{turn}"\n')
    assert _records(table, task, {}, None) == [
        {"id": "7", "query": "red one", "history": [{"role": "user", "text": "tents"}]}
    ]
    lines = written(tmp_path / "rows.jsonl", '{"query": "red one", "history": null}\n')
    assert _records(lines, task, {}, None) == [{"id": "row-1", "query": "red one"}]
    with pytest.raises(DataError, match=r"rows\.csv, line 2.*field 'history': is not JSON"):
        _records(written(tmp_path / "rows.csv", "query,history\nred,what\n"), task, {}, None)
    with pytest.raises(DataError, match=r"rows\.jsonl, line 1.*field 'query': 5 is not of type 'string'"):
        _records(written(tmp_path / "rows.jsonl", '{"query": 5}\n'), task, {}, None)


@pytest.mark.parametrize(("first", "second", "seconds"), [("20260115103000", "20260115113000", 3600)])
def test_a_compact_time_is_a_date(first, second, seconds):
    from searchlora.data.formats.query_log import _seconds

    assert _seconds(second) - _seconds(int(first)) == seconds
    assert _seconds("20260116") - _seconds("20260115") == 86_400
    assert _seconds("20000000") == 20_000_000  # seconds of a clock that begins at 0
    assert _seconds("1768473000000") == _seconds("1768473000") == 1768473000
