"""The demo on a small shop and a tiny base; `make demo` runs it on the real base."""

from __future__ import annotations

import json
import re

import pytest

from searchlora.data.dataset import load_dataset
from searchlora.experiments.demo import demo, demo_all, shortened
from searchlora.inference.settings import LocalSettings
from searchlora.task import EncoderTask, load_task, load_tasks
from tests.tiny_encoder import build_tiny_encoder

SMALL = ("optim.max_steps=4", "lora.r=2", "optim.batch_size=8", "validation.generate_rows=4", "validation.rows=8")


@pytest.fixture(scope="module")
def walked(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "demo"
    arguments = {"products": 600, "queries": 200, "overrides": (f"base={tiny_base.path}", *SMALL)}
    messages: list[str] = []
    found = demo(folder, say=messages.append, **arguments)
    return folder, found, messages, arguments


@pytest.mark.slow
def test_the_table_has_the_baselines_the_base_and_the_adapter(walked):
    _, found, _, _ = walked
    assert {"raw query", "dictionary", "base zero-shot", "shop-rewriter@1"} <= set(found.evaluated.comparison.systems)
    assert {"nDCG@10", "MRR(rel=2)@10", "Recall(rel=2)@100"} <= set(found.evaluated.comparison.measures)
    pair = found.evaluated.comparison.pair("shop-rewriter@1", "raw query", "nDCG@10")
    assert 0 < pair.p <= pair.p_corrected <= 1


@pytest.mark.slow
def test_reference_rewrites_beat_the_dictionary_and_the_dictionary_beats_the_query(walked):
    _, found, _, _ = walked
    comparison = found.evaluated.comparison
    raw, dictionary, truth = (
        comparison.row(system, "nDCG@10").value for system in ("raw query", "dictionary", "reference rewrite")
    )
    assert raw < dictionary < truth


@pytest.mark.slow
def test_report_runs_and_json_are_written(walked):
    folder, found, _, _ = walked
    assert found.report == folder / "evaluation" / "report.html"
    page = found.report.read_text(encoding="utf-8")
    assert "shop-rewriter@1" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    results = json.loads((folder / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    assert {"benchmark", "command", "date", "machine", "versions", "rows", "comparisons"} <= set(results)
    assert (folder / "evaluation" / "runs" / "raw-query.trec").is_file()


@pytest.mark.slow
def test_another_engine_evaluates_anew_and_trains_nothing(walked):
    folder, found, _, arguments = walked
    said: list[str] = []
    again = demo(folder, say=said.append, engine=LocalSettings(precision="fp32", batch_rows=8), **arguments)
    assert again.evaluated.adapter.reference == found.evaluated.adapter.reference
    assert (found.evaluated.engines, again.evaluated.engines) == (("local, bf16",), ("local, fp32",))
    assert again.evaluated.reused == ()
    assert any(each.startswith("Reusing shop-rewriter@1") for each in said)


@pytest.mark.slow
def test_the_rewriter_trains_for_three_epochs(walked):
    _, found, _, _ = walked
    assert found.evaluated.adapter.manifest.recipe["optim"]["epochs"] == 3


@pytest.mark.slow
def test_the_report_says_what_each_baseline_is(walked):
    _, found, _, _ = walked
    page = found.report.read_text(encoding="utf-8")
    for system in ("raw query", "dictionary", "reference rewrite", "base zero-shot"):
        assert any(note.startswith(f"{system}: ") for note in found.evaluated.comparison.notes), system
    assert "an upper bound for rules; no real team has it" in page


@pytest.mark.slow
def test_the_command_explains_its_table_and_reports_minutes_and_memory(walked, cli, monkeypatch):
    folder, _, _, arguments = walked
    monkeypatch.setattr("searchlora.experiments.demo.demo", lambda out, **more: demo(out, **arguments | more))
    called = cli("demo", "--out", folder)
    assert called.code == 0, called.err
    assert "dictionary: the vocabulary that generated the shop, an upper bound for rules" in called.out
    assert re.search(r"^Took \d+\.\d minutes and at most \d+\.\d GB of memory\.$", called.out, re.M)


@pytest.mark.slow
def test_a_second_call_reuses_results_and_reports_it(walked):
    folder, first, _, arguments = walked
    before = {path: path.stat().st_mtime_ns for path in (folder / "store").rglob("*") if path.is_file()}
    messages: list[str] = []
    second = demo(folder, say=messages.append, **arguments)
    assert second.evaluated.comparison.rows == first.evaluated.comparison.rows
    assert second.evaluated.reused == ("base zero-shot", "shop-rewriter@1")
    text = "\n".join(messages)
    for what in ("Reusing the synthetic shop", "Reusing the dataset", "Reusing shop-rewriter@1", "Reusing outputs"):
        assert what in text
    after = {path: path.stat().st_mtime_ns for path in (folder / "store").rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.slow
def test_every_task_that_reads_the_shop_is_trained_and_shown_on_one_page(tiny_base, tmp_path):
    encoder = build_tiny_encoder(tmp_path / "encoder")
    few = ("optim.max_steps=3", "optim.batch_size=4", "validation.rows=4", "lora.r=2")

    def overrides(task):
        if isinstance(task, EncoderTask):
            return (f"base={encoder}", *few)
        return (f"base={tiny_base.path}", *few, "validation.generate_rows=2", "max_new_tokens=4", "max_length=2040")

    found = demo_all(tmp_path / "demo", say=lambda _: None, products=600, queries=200, overrides=overrides)
    shop_tasks = {name for name, task in load_tasks().items() if "shop" in task.formats}
    assert set(found.tasks) == shop_tasks >= {"rewriting", "intent", "judgment", "rag_answer", "embedding"}
    page = found.report.read_text(encoding="utf-8")
    for name, each in found.tasks.items():
        assert each.report.is_file()
        assert f'href="{each.report.relative_to(found.report.parent)}"' in page
        assert each.evaluated.adapter.reference in page, name
    adapters = [each.evaluated.adapter for each in found.tasks.values()]
    size = sum(file.stat().st_size for each in adapters for file in each.path.rglob("*") if file.is_file())
    size += sum(f.stat().st_size for base in (tiny_base.path, encoder) for f in base.rglob("*.safetensors"))
    assert f">{size:,}<" in page


@pytest.mark.slow
def test_only_long_training_runs_are_shortened(walked):
    folder, *_ = walked
    dataset, task = load_dataset(folder / "dataset"), load_task("rewriting")
    own = ("optim.batch_size=2", "optim.gradient_accumulation=3", "optim.epochs=2")
    rows = 2 * dataset.card.rows["train"]
    assert shortened(task, dataset, own, rows - 1) == (*own, f"optim.max_steps={(rows - 1) // 6}")
    assert shortened(task, dataset, own, rows) == own
    assert shortened(task, dataset, (*own, "optim.max_steps=7"), 7 * 6) == (*own, "optim.max_steps=7")
