"""The rule of the MSRD benchmark: words whose removal helps on training queries."""

from __future__ import annotations

import json

from benchmarks.rewriting_msrd.__main__ import LISTED_FROM, listed_words, without
from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.records import Hit


def search(queries, k):
    """Finds the tent by every query with `tent` and without `netflix`."""
    assert k == 10
    return [[Hit("tent" if "tent" in query and "netflix" not in query else "other", 1.0)] for query in queries]


def test_only_words_whose_removal_helps_are_listed(tmp_path):
    queries = [{"id": f"q{n}", "query": f"netflix tent {'x' * (n + 1)}"} for n in range(LISTED_FROM + 5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in queries), encoding="utf-8")
    (tmp_path / "docs.csv").write_text("id,text\ntent,a tent\nother,a film\n", encoding="utf-8")
    (tmp_path / "qrels.txt").write_text("".join(f"{each['id']} 0 tent 1\n" for each in queries), encoding="utf-8")
    build(
        "rewriting", tmp_path / "rows.jsonl", format="queries", out=tmp_path / "out", split_ratios=(1.0, 0.0, 0.0),
        corpus=tmp_path / "docs.csv", qrels=tmp_path / "qrels.txt",
    )  # fmt: skip
    assert listed_words(load_dataset(tmp_path / "out"), search) == ["netflix"]


def test_listed_words_are_left_out_of_a_query():
    assert without("netflix red tent", ["netflix"]) == "red tent"
    assert without("netflix", ["netflix"]) == "netflix"
