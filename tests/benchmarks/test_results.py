"""Results files: one row per line, and tables that read any layout."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

from benchmarks import common, tables
from benchmarks.common import read_results, remembered, save, write_results
from benchmarks.speed import speed_ratio, speed_row
from searchlora.eval.comparison import compare
from searchlora.eval.evaluation import Evaluation

ROW = {"system": "a | b", "measure": "MRR@10", "value": 0.31, "low": 0.29, "high": 0.33, "n": 600}
PAIR = {
    "a": "a | b",
    "b": "raw",
    "measure": "MRR@10",
    "difference": 0.2,
    "low": 0.18,
    "high": 0.22,
    "p_corrected": 1e-4,
}
CONTENT = {
    "benchmark": "demo",
    "command": "python -m benchmarks.demo",
    "date": "2026-01-02T03:04:05",
    "machine": "2 cores",
    "versions": {"torch": "2"},
    "rows": [ROW, {**ROW, "system": "raw", "value": math.nan, "low": math.nan, "high": math.nan}],
    "comparisons": [PAIR],
    "by_judge": {"one": {"kappa": 0.5}, "two": {"kappa": 0.4}},
}


def test_results_are_written_one_row_per_line_without_loss(tmp_path):
    path = tmp_path / "demo.json"
    write_results(path, CONTENT)
    text = path.read_text(encoding="utf-8")
    read = json.loads(text)
    assert read["rows"][0] == ROW and read["rows"][1]["value"] is None
    assert {key: read[key] for key in CONTENT if key != "rows"} == {k: v for k, v in CONTENT.items() if k != "rows"}
    assert sum(line.startswith(' {"system"') for line in text.splitlines()) == 2
    assert any(line.startswith(' "two": {') for line in text.splitlines())
    assert len(text.splitlines()) == 18


def test_a_file_may_keep_systems_that_were_measured_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    for other, minutes in (("small", 5), ("large", 9), ("small", 4)):
        values = {f"q{number}": float(number % 3 < len(other) - minutes % 2) for number in range(12)}
        systems = {
            "rule": Evaluation("MRR", {"MRR": dict.fromkeys(values, 0.5)}),
            other: Evaluation("MRR", {"MRR": values}),
        }
        more = {"caption": "means", "minutes": {other: minutes}}
        save("demo", compare(systems, candidate="rule", resamples=100), more, keep=True)
    found = read_results("demo")
    assert sorted(row["system"] for row in found["rows"]) == ["large", "rule", "small"]
    assert [(pair["a"], pair["b"]) for pair in found["comparisons"]] == [("rule", "small"), ("rule", "large")]
    assert found["minutes"] == {"small": 4, "large": 9}


def test_indented_files_of_earlier_releases_give_the_same_table(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    write_results(tmp_path / "demo.json", CONTENT)
    compact = tables.table("demo")
    old = json.loads((tmp_path / "demo.json").read_text(encoding="utf-8"))
    (tmp_path / "demo.json").write_text(json.dumps(old, indent=1), encoding="utf-8")
    assert tables.table("demo") == compact
    assert "| a \\| b | 0.310 (0.290 to 0.330) |" in compact and "| raw | – |" in compact


def test_a_transcript_is_shown_command_by_command(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    step = {"description": "One step.", "command": ["searchlora", "adapters", "list"], "output": "none", "exit": 0}
    write_results(tmp_path / "demo.json", {**CONTENT, "transcript": [step]})
    assert tables.table("demo").startswith("One step.\n\n```\n$ searchlora adapters list\nnone\n[exit 0]\n```\n")


def test_speeds_are_shown_with_a_table_for_each_set_of_measures(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    fast, slow = [10.0, 12.0, 11.0], [5.0, 4.0, 5.5]
    rows = [
        speed_row("ours", "rows/s", fast),
        speed_row("theirs", "rows/s", slow),
        speed_row("index", "build, s", [93.9]),
    ]
    pairs = [speed_ratio("ours", "theirs", "rows/s", fast, slow)]
    write_results(tmp_path / "demo.json", {**CONTENT, "rows": rows, "comparisons": pairs})
    shown = tables.table("demo")
    assert "| ours | 11.0 (10.0–12.0) |\n| theirs | 5.00 (4.00–5.50) |\n\n" in shown
    assert "| index | 93.9 |" in shown
    assert "| ours / theirs | 2.20 (2.00–3.00) |" in shown
    assert "python -m benchmarks.demo" in shown


def test_what_was_computed_is_remembered_and_an_incomplete_line_is_computed_again(tmp_path):
    file, calls = tmp_path / "values.jsonl", []

    def compute(keys):
        calls.append(list(keys))
        return [{"length": len(key)} for key in keys]

    assert remembered(file, ["a", "bb", "a"], compute) == {"a": {"length": 1}, "bb": {"length": 2}}
    whole = file.read_text()
    file.write_text(whole + whole[:8])
    assert remembered(file, ["ccc", "bb"], compute, batch=1)["ccc"] == {"length": 3}
    assert calls == [["a", "bb"], ["ccc"]]


def test_the_tables_in_the_readmes_match_the_results():
    checked = subprocess.run(
        [sys.executable, "-m", "benchmarks.tables", "--check"],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
