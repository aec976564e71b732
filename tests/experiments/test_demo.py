"""The demo's way, on a small shop and a tiny base; `make demo` walks it on the real one."""

from __future__ import annotations

import json

import pytest

from searchlora.experiments.demo import demo

SMALL = ("optim.max_steps=4", "lora.r=2", "optim.batch_size=8", "validation.generate_rows=4", "validation.rows=8")


@pytest.fixture(scope="module")
def walked(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "demo"
    arguments = {"products": 600, "queries": 200, "overrides": (f"base={tiny_base.path}", *SMALL)}
    said: list[str] = []
    found = demo(folder, say=said.append, **arguments)
    return folder, found, said, arguments


def test_the_table_has_the_baselines_the_base_and_the_adapter(walked):
    _, found, _, _ = walked
    assert {"raw query", "dictionary", "base zero-shot", "shop-rewriter@1"} <= set(found.evaluated.comparison.systems)
    assert {"nDCG@10", "MRR(rel=2)@10", "Recall(rel=2)@100"} <= set(found.evaluated.comparison.measures)
    pair = found.evaluated.comparison.pair("shop-rewriter@1", "raw query", "nDCG@10")
    assert 0 < pair.p <= pair.p_corrected <= 1


def test_truth_beats_the_dictionary_beats_the_raw_query(walked):
    _, found, _, _ = walked
    comparison = found.evaluated.comparison
    raw, dictionary, truth = (
        comparison.row(system, "nDCG@10").value for system in ("raw query", "dictionary", "reference rewrite")
    )
    assert raw < dictionary < truth


def test_report_runs_and_json_are_written(walked):
    folder, found, _, _ = walked
    assert found.report == folder / "evaluation" / "report.html"
    page = found.report.read_text(encoding="utf-8")
    assert "shop-rewriter@1" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    results = json.loads((folder / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    assert {"benchmark", "command", "date", "machine", "versions", "rows", "comparisons"} <= set(results)
    assert (folder / "evaluation" / "runs" / "raw-query.trec").is_file()


def test_a_second_run_uses_what_is_there_and_says_so(walked):
    folder, first, _, arguments = walked
    before = {path: path.stat().st_mtime_ns for path in (folder / "store").rglob("*") if path.is_file()}
    said: list[str] = []
    second = demo(folder, say=said.append, **arguments)
    assert second.evaluated.comparison.rows == first.evaluated.comparison.rows
    assert second.evaluated.reused == ("base zero-shot", "shop-rewriter@1")
    text = "\n".join(said)
    for what in ("made shop is there", "dataset is there", "adapter is there", "used again"):
        assert what in text
    after = {path: path.stat().st_mtime_ns for path in (folder / "store").rglob("*") if path.is_file()}
    assert after == before
