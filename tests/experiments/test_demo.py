"""The demo on a small shop and a tiny base; `make demo` runs it on the real base."""

from __future__ import annotations

import json
import re
import shlex
import socket

import httpx
import pytest

from benchmarks.servers import is_ready
from searchlora.data.collection import index_folder
from searchlora.data.dataset import load_dataset
from searchlora.experiments.demo import demo, demo_all, shortened
from searchlora.pipelines.config import read_pipeline
from searchlora.server.api.config import read_config
from searchlora.task import EncoderTask, load_task, load_tasks
from searchlora.testing import build_tiny_encoder
from tests.child_scripts import COMMAND, Script
from tests.docs.blocks import ROOT, blocks, check_output

SMALL = ("optim.max_steps=4", "lora.r=2", "optim.batch_size=8", "validation.generate_rows=4", "validation.rows=8")


@pytest.fixture(scope="module")
def walked(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "demo"
    arguments = {"products": 600, "queries": 200, "overrides": (f"base={tiny_base.path}", *SMALL)}
    messages: list[str] = []
    found = demo(folder, log=messages.append, **arguments)
    return folder, found, messages, arguments


@pytest.mark.slow
def test_reference_rewrites_beat_the_dictionary_and_the_dictionary_beats_the_query(walked):
    _, found, _, _ = walked
    comparison = found.evaluated.comparison
    raw, dictionary, truth = (
        comparison.row(system, "nDCG@10").value for system in ("raw query", "dictionary", "reference rewrite")
    )
    assert raw < dictionary < truth


@pytest.mark.slow
def test_the_command_explains_its_table_and_reports_minutes_and_memory(walked, cli, monkeypatch):
    folder, _, _, arguments = walked
    monkeypatch.setattr("searchlora.experiments.demo.demo", lambda out, **more: demo(out, **arguments | more))
    monkeypatch.setenv("COLUMNS", "150")
    called = cli("demo", "--out", folder)
    assert called.code == 0, called.err
    (block,) = (block for block in blocks(ROOT / "docs" / "index.md") if block.body == "make demo\n")
    check_output(block, called.out.replace(f"{folder.parent}/", ""))
    assert "dictionary: the vocabulary that generated the shop, an upper bound for rules" in called.out
    assert re.search(r"^Took \d+\.\d minutes and at most \d+\.\d GB of memory\.$", called.out, re.M)


@pytest.mark.slow
def test_a_second_call_reuses_results_and_reports_it(walked):
    folder, first, _, arguments = walked
    before = {path: path.stat().st_mtime_ns for path in (folder / "store").rglob("*") if path.is_file()}
    messages: list[str] = []
    second = demo(folder, log=messages.append, **arguments)
    assert second.evaluated.comparison.rows == first.evaluated.comparison.rows
    assert second.evaluated.reused == ("base zero-shot", "shop-rewriter@1")
    text = "\n".join(messages)
    for what in ("Reusing the synthetic shop", "Reusing the dataset", "Reusing shop-rewriter@1", "Reusing outputs"):
        assert what in text
    after = {path: path.stat().st_mtime_ns for path in (folder / "store").rglob("*") if path.is_file()}
    assert after == before


@pytest.fixture(scope="module")
def all_walked(tiny_base, tmp_path_factory):
    """The demo of all tasks, on a tiny base and a tiny encoder."""
    folder = tmp_path_factory.mktemp("all")
    encoder = build_tiny_encoder(folder / "encoder")
    few = ("optim.max_steps=3", "optim.batch_size=4", "validation.rows=4", "lora.r=2")

    def overrides(task):
        if isinstance(task, EncoderTask):
            return (f"base={encoder}", *few)
        return (f"base={tiny_base.path}", *few, "validation.generate_rows=2", "max_new_tokens=4", "max_length=2040")

    arguments = {"products": 600, "queries": 200, "overrides": overrides, "topics": 3}
    found = demo_all(folder / "demo", log=lambda _: None, **arguments)
    return folder / "demo", found, (tiny_base.path, encoder), arguments


@pytest.mark.slow
def test_every_task_that_reads_the_shop_is_trained_and_shown_on_one_page(all_walked):
    _, found, _, _ = all_walked
    shop_tasks = {name for name, task in load_tasks().items() if "shop" in task.formats}
    assert set(found.tasks) == shop_tasks >= {"rewriting", "intent", "judgment", "rag_answer", "embedding"}
    page = found.report.read_text(encoding="utf-8")
    for name, each in found.tasks.items():
        assert each.report.is_file()
        assert f'href="{each.report.relative_to(found.report.parent)}"' in page
        assert each.evaluated.adapter.reference in page, name


@pytest.mark.slow
def test_its_five_adapters_are_slots_of_one_pipeline_and_ablated(all_walked):
    folder, found, _, _ = all_walked
    ablation = found.search.ablation
    adapters = {each.evaluated.adapter.reference for each in found.tasks.values()}
    assert {slot.adapter for slot in ablation.slots if slot.adapter} == adapters
    assert adapters == {f"shop-{name}@1" for name in ("rewriter", "intent", "judge", "answers", "embedder")}
    slots = ["shop-intent", "shop-rewriter", "bm25", "dense(shop-embedder)", "filter", "shop-judge", "shop-answers"]
    assert [slot.name for slot in ablation.slots] == slots
    names = {variant.name for variant in ablation.variants}
    assert names == {
        "full pipeline",
        *(f"without {slot}" for slot in slots),
        *(f"base instead of {slot}" for slot in slots if "shop-" in slot),
    }
    assert not ablation.left_out
    topics = [json.loads(line) for line in (folder / "search" / "topics.jsonl").read_text().splitlines()]
    tested = {record["id"] for record in load_dataset(folder / "dataset").records("test")}
    assert len(topics) == 3 and {topic["id"] for topic in topics} <= tested
    assert set(ablation.experimented.topics.qrels) == {topic["id"] for topic in topics}
    assert found.search.report == folder / "search" / "ablation" / "report.html" and found.search.report.is_file()
    assert 'href="search/ablation/report.html"' in found.report.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_written_pipeline_has_pinned_adapters_and_searches_its_own_index(all_walked, cli):
    folder, found, (base, encoder), _ = all_walked
    config = read_pipeline(found.search.pipeline)
    assert config.parameters["judge"] == "shop-judge@1" and config.parameters["encoder"] == str(encoder)
    assert index_folder(config.corpus) == folder / "search" / "index"
    called = cli("search", found.search.pipeline, "red tent", "--store", folder / "store", "--json")
    result = json.loads(called.out)
    stages = " ".join(result["stages"])
    assert all(each.evaluated.adapter.reference in stages for each in found.tasks.values())
    assert (len(result["hits"]), len(result["grades"]), len(result["passages"])) == (100, 10, 3)
    assert result["answer"].keys() >= {"text", "citations", "abstained"}
    options = found.search.serve_options
    assert options["--base"] == str(base) and options["--pipeline"] == str(found.search.pipeline)


@pytest.mark.slow
def test_the_command_ends_with_the_table_and_the_address_and_reuses_the_runs(all_walked, cli, monkeypatch):
    folder, _, _, arguments = all_walked
    monkeypatch.setattr("searchlora.experiments.demo.demo_all", lambda out, **more: demo_all(out, **arguments | more))
    called = cli("demo", "--all", "--out", folder)
    assert called.code == 0, called.err
    assert "| shop-judge | nothing |" in called.out and "| dense(shop-embedder) | base |" in called.out
    assert "Reusing runs of an earlier ablation: full pipeline, without shop-intent" in called.out
    address, command = called.out.rstrip().splitlines()[-2:]
    assert "http://127.0.0.1:8000/" in address
    served = []
    monkeypatch.setattr("searchlora.cli.serve.start", served.append)
    again = cli("demo", "--all", "--out", folder, "--serve")
    assert again.code == 0, again.err
    words = shlex.split(command)
    assert words[:2] == ["searchlora", "serve"]
    options = {word.removeprefix("--"): value for word, value in zip(words[2::2], words[3::2], strict=True)}
    options["pipelines"] = [options.pop("pipeline")]
    assert served == [read_config(None, options)]
    local = "{batch_invariant: true}"  # the default: its runs are those that are there
    assert cli("demo", "--all", "--out", folder, "--serve", "--engine", local).code == 0
    assert served[-1].local_engine.batch_invariant
    printed = cli("demo", "--all", "--out", folder, "--engine", local).out.rstrip().splitlines()[-1]
    assert shlex.split(printed)[-2:] == ["--engine", local]


@pytest.mark.slow
def test_the_served_pipeline_answers_with_every_adapter(all_walked):
    """The command that the demo prints, in a process of its own."""
    _, found, _, _ = all_walked
    options = [word for pair in found.search.serve_options.items() for word in pair]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Script(COMMAND, "serve", *options, "--port", port)
    try:
        url = f"http://127.0.0.1:{port}"
        assert is_ready(server, f"{url}/readyz"), server.stderr
        assert "shop_search" in httpx.get(f"{url}/v1/pipelines").text
        answer = httpx.post(f"{url}/v1/search", json={"pipeline": "shop_search", "query": "red tent"}, timeout=60)
        assert answer.status_code == 200, answer.text
        for each in found.tasks.values():
            assert each.evaluated.adapter.reference in answer.text
        assert "<html" in httpx.get(url).text
    finally:
        server.terminate()
        server.wait(60)


def test_a_server_is_for_all_tasks(refused, tmp_path):
    assert "Give --all, too." in refused("demo", "--serve", "--out", tmp_path / "demo")


@pytest.mark.slow
def test_only_long_training_runs_are_shortened(walked):
    folder, *_ = walked
    dataset, task = load_dataset(folder / "dataset"), load_task("rewriting")
    own = ("optim.batch_size=2", "optim.gradient_accumulation=3", "optim.epochs=2")
    rows = 2 * dataset.card.rows["train"]
    assert shortened(task, dataset, own, rows - 1) == (*own, f"optim.max_steps={(rows - 1) // 6}")
    assert shortened(task, dataset, own, rows) == own
    assert shortened(task, dataset, (*own, "optim.max_steps=7"), 7 * 6) == (*own, "optim.max_steps=7")
