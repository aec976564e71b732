"""The verb `ablate`: variants of a pipeline that share their stages, against each pipeline executed by itself."""

from __future__ import annotations

import json
import shutil
import sqlite3
from itertools import pairwise

import pytest

from searchlora.adapters.store import Store
from searchlora.data.collection import read_documents
from searchlora.errors import PipelineError, UsageError
from searchlora.eval.comparison import compare
from searchlora.eval.evaluation import evaluate_run
from searchlora.eval.formats import read_qrels
from searchlora.eval.judgments.card import JudgmentsCard, read_run_card, write_card
from searchlora.eval.trec import read_run, write_qrels
from searchlora.experiments.ablate import ablate
from searchlora.experiments.options import AblationOptions
from searchlora.experiments.reports import ablation_json, write_ablation
from searchlora.pipelines.index_build import build_index
from searchlora.pipelines.pipeline import build_pipeline, run_of
from searchlora.pipelines.slots import FULL
from searchlora.systems import costs
from searchlora.systems.costs import CostedPipeline
from searchlora.task import load_generation_task, load_task
from tests.factories import random_adapter, random_encoder_adapter, read_jsonl, write_jsonl

KINDS = ["tent", "boots", "lamp", "stove", "rope", "bottle"]
COLOURS = ["red", "green", "blue", "black"]
TOPICS = 8

HYBRID = (
    "name: shop\nstages:\n- fuse: {k: 6, of: [{bm25: {k: 6}}, {dense: {model: ENCODER, k: 6}}]}\n- passages: {k: 3}\n"
)
JUDGE = "- adapter: {name: shop-judge, continue_after_choice: false}\n"
ANSWERER = "- adapter: {name: answerer, max_new_tokens: 2, tuned: {abstain: {by: judge, below: 0.9}}}\n"


@pytest.fixture(scope="module")
def made(tiny_base, encoder_base, tmp_path_factory):
    """A shop of colours and kinds, a store with two versions of a judge and an answering adapter of random weights."""
    folder = tmp_path_factory.mktemp("ablate")
    documents = [{"id": f"d{n}", "title": f"{COLOURS[n % 4]} {KINDS[n % 6]}", "text": f"number {n}"} for n in range(24)]
    topics, qrels = [], {}
    for n in range(TOPICS):
        kind, query = KINDS[n % 3], f"{COLOURS[n % 4]} {KINDS[n % 3]}"
        topics.append({"id": f"q{n}", "query": query, "family": f"f{n // 2}"})
        qrels[f"q{n}"] = {each["id"]: 1 + (each["title"] == query) for each in documents if kind in each["title"]}
    write_jsonl(folder / "corpus.jsonl", documents)
    write_jsonl(folder / "topics.jsonl", topics)
    write_qrels(folder / "qrels.txt", qrels)
    hybrid = HYBRID.replace("ENCODER", str(encoder_base.path))
    (folder / "hybrid.yaml").write_text(hybrid)
    (folder / "judged.yaml").write_text(hybrid + JUDGE)
    (folder / "answered.yaml").write_text(hybrid + JUDGE + ANSWERER)
    store, judgment = Store(folder / "store"), load_generation_task("judgment")
    task = judgment.bound(judgment.settings_of({"grades": "2"}, ()))
    for seed in (1, 2):
        random_adapter(store, "shop-judge", task, tiny_base, folder / f"judge{seed}", seed=seed)
    random_adapter(store, "answerer", load_generation_task("rag_answer"), tiny_base, folder / "answerer", seed=3)
    return folder


def files_of(folder):
    """Topics, judgments and corpus as options of the command."""
    names = ("topics.jsonl", "qrels.txt", "corpus.jsonl")
    return [part for name in names for part in (f"--{name.split('.')[0]}", folder / name)]


def run(folder, pipeline, out, **options):
    files = [folder / name for name in ("topics.jsonl", "qrels.txt")]
    places = {"corpus": folder / "corpus.jsonl", "store": folder / "store"}
    places |= {key: options.pop(key) for key in places if key in options}
    return ablate(
        folder / pipeline, *files, out, AblationOptions(**{"measures": ("nDCG@5", "MRR@5"), **options}), **places
    )


@pytest.mark.slow
def test_each_variant_is_the_pipeline_executed_by_itself(made, tmp_path):
    found = run(made, "judged.yaml", tmp_path, kinds=("off", "base", "older"))
    left_out = ["without bm25", "without dense", "without shop-judge"]
    others = ["base instead of shop-judge", "shop-judge@1 instead of shop-judge"]
    assert [variant.name for variant in found.variants] == [FULL, *left_out, *others]
    searches = read_jsonl(made / "topics.jsonl")
    documents, store = list(read_documents(made / "corpus.jsonl")), Store(made / "store")
    qrels = read_qrels(made / "qrels.txt")
    evaluations = {}
    for variant in found.variants:
        built = build_pipeline("shop", variant.stages, store=store, documents=documents)
        expected = run_of(built.execute(searches))
        source = found.experimented.runs[variant.name].path
        assert {topic: pytest.approx(scores) for topic, scores in read_run(source).items()} == expected, variant.name
        assert source.read_text().split()[5] == built.tag
        evaluations[variant.name] = evaluate_run(expected, qrels, measures=["nDCG@5"])
    compared = compare(evaluations, candidate=FULL)
    for pair in compared.comparisons:
        if pair.measure == "nDCG@5":
            ours = found.comparison.pair(pair.a, pair.b, pair.measure)
            figures = [(each.difference, each.low, each.high, each.p) for each in (ours, pair)]
            assert figures[0] == pytest.approx(figures[1])
    assert {pair.measure for pair in found.comparison.comparisons} == {"nDCG@5"}  # the first measure alone is tested
    assert found.comparison.row(FULL, "MRR@5").n == TOPICS
    assert len({json.dumps(read_run(run.path)) for run in found.experimented.runs.values()}) > 3


@pytest.mark.slow
def test_each_slot_has_milliseconds_and_an_llm_has_tokens(made, tmp_path):
    found = run(made, "judged.yaml", tmp_path, kinds=("off", "base", "older"))
    full = found.costs[FULL]
    assert full.keys() == {"bm25", "dense", "shop-judge"}
    assert all(costs["ms per query"] > 0 for costs in full.values())
    assert full["dense"].keys() == {"ms per query"}
    judge = full["shop-judge"]
    for name in ("base instead of shop-judge", "shop-judge@1 instead of shop-judge"):
        costs = found.costs[name]["shop-judge"]
        assert costs["prompt tokens per query"] == pytest.approx(judge["prompt tokens per query"])  # the same prompts
        assert costs["ms per query"] > 0
    lines = {line["system"]: line for line in ablation_json(found)["slots"] if line["slot"] == "shop-judge"}
    assert lines["without shop-judge"]["costs"] == dict.fromkeys(judge, 0.0)
    total = found.comparison.costs[FULL]
    assert total["prompt tokens per query"] == judge["prompt tokens per query"]
    assert total["ms per query"] > judge["ms per query"]


@pytest.mark.slow
def test_an_ablation_that_was_interrupted_goes_on_where_it_stopped(made, tmp_path, monkeypatch):
    executed = []
    execute = CostedPipeline.run

    def dies(self, *more):
        if len(executed) == 2:
            raise KeyboardInterrupt
        executed.append(self.name)
        return execute(self, *more)

    with monkeypatch.context() as patch:
        patch.setattr(CostedPipeline, "run", dies)
        with pytest.raises(KeyboardInterrupt):
            run(made, "hybrid.yaml", tmp_path)
    resumed = run(made, "hybrid.yaml", tmp_path)
    assert resumed.reused == (FULL, "without bm25")
    undisturbed = run(made, "hybrid.yaml", tmp_path / "other")
    assert resumed.comparison.rows == undisturbed.comparison.rows
    assert resumed.comparison.comparisons == undisturbed.comparison.comparisons
    assert resumed.costs[FULL].keys() == {"bm25", "dense"}
    monkeypatch.setattr(CostedPipeline, "run", lambda *_: pytest.fail("nothing is missing"))
    assert set(run(made, "hybrid.yaml", tmp_path).reused) == {FULL, "without bm25", "without dense"}


@pytest.mark.slow
def test_a_base_model_that_judged_may_not_take_the_place_of_an_adapter(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "shop")
    found = run(folder, "judged.yaml", tmp_path / "out")
    card = read_run_card(found.experimented.runs["base instead of shop-judge"].path)
    (base,) = [each for each in card.lineage if each.startswith("base ") and "tiny" in each]
    assert card.adapters == () and "shop-judge@2" not in card.lineage
    assert "shop-judge@2" in read_run_card(found.experimented.runs[FULL].path).lineage
    write_card(folder / "qrels.txt", JudgmentsCard("llm", "2026-01-01", judge=base, judge_lineage=(base,)))
    with pytest.raises(UsageError, match="base instead of shop-judge"):
        run(folder, "judged.yaml", tmp_path / "out")


@pytest.mark.slow
def test_a_pipeline_that_does_not_work_without_a_slot_is_left_out_with_the_reason(made, tmp_path):
    found = run(made, "answered.yaml", tmp_path, kinds=("off",), slots=("shop-judge", "answerer"))
    assert [variant.name for variant in found.variants] == [FULL, "without answerer"]
    why = found.left_out["without shop-judge"]
    assert why.startswith("no stage has judged the passages")
    assert any(note.startswith("without shop-judge is left out: no stage") for note in found.comparison.notes)
    pair = found.comparison.pair(FULL, "without answerer", "nDCG@5")
    assert (pair.difference, pair.p) == (0.0, 1.0)  # answers change no hits


@pytest.mark.slow
def test_an_older_version_that_no_longer_loads_is_left_out_with_the_reason(made, tmp_path, cli):
    folder = shutil.copytree(made, tmp_path / "shop")
    weights = folder / "store" / "shop-judge" / "1" / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    found = run(folder, "judged.yaml", tmp_path / "out", slots=("shop-judge",), kinds=("older", "off"))
    assert [variant.name for variant in found.variants] == [FULL, "without shop-judge"]
    assert "sha256" in found.left_out["shop-judge@1 instead of shop-judge"]
    places = (*files_of(made), "--store", folder / "store", "--out", tmp_path / "out")
    called = cli("ablate", folder / "judged.yaml", *places, "--older")
    assert "shop-judge@1 instead of shop-judge is left out: " in called.out, called


@pytest.mark.slow
def test_all_files_are_written(made, tmp_path):
    found = run(made, "hybrid.yaml", tmp_path, cluster="family")
    assert found.comparison.groups == TOPICS / 2
    report = write_ablation(found, tmp_path)
    page, table = report.read_text(), (tmp_path / "ablation.md").read_text()
    for text in (page, table):
        assert "without dense" in text and "unchanged minus this" in text
    assert "What each slot brings" in page
    kept = json.loads((tmp_path / "ablation.json").read_text())
    assert [line["system"] for line in kept["slots"]] == [FULL, "without bm25", FULL, "without dense"]
    assert kept["slots"][1]["difference"] == found.comparison.pair(FULL, "without bm25", "nDCG@5").difference
    variant = kept["variants"][1]
    assert (variant["name"], variant["kind"], variant["slots"]) == ("without bm25", "off", ["bm25"])
    assert variant["stages"][1:] == [{"passages": {"k": 3}}]
    assert kept["inputs"].keys() >= {"topics", "qrels", "corpus", f"system {FULL}"}
    per_query = read_jsonl(tmp_path / "per_query.jsonl")
    assert {row["system"] for row in per_query} == {FULL, "without bm25", "without dense"}


def test_what_cannot_be_ablated_is_named(made, tmp_path):
    with pytest.raises(UsageError, match=r"no slot 'colour'. Its slots: bm25, dense"):
        run(made, "hybrid.yaml", tmp_path, slots=("colour",))
    (tmp_path / "bm25.yaml").write_text("name: bm25\nstages:\n- bm25: {}\n")
    with pytest.raises(UsageError, match=r"no slot of bm25 can be changed; without bm25: no other stage retrieves"):
        run(made, tmp_path / "bm25.yaml", tmp_path)
    with pytest.raises(PipelineError, match=r"needs documents.*--corpus"):
        run(made, "hybrid.yaml", tmp_path, corpus=None)
    (tmp_path / "none.yaml").write_text("name: none\nstages:\n- adapter: {name: shop-judge}\n")
    with pytest.raises(PipelineError, match="no stage produces hits"):
        run(made, tmp_path / "none.yaml", tmp_path)
    with pytest.raises(UsageError, match="nDCG@x"):
        run(made, "hybrid.yaml", tmp_path, measures=("nDCG@x",))
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_topics_may_hold_a_conversation_as_queries_do(made, tmp_path, monkeypatch):
    folder = shutil.copytree(made, tmp_path / "shop")
    turns = [{"role": "user", "text": "hello"}]
    rows = [row | {"history": turns} for row in read_jsonl(folder / "topics.jsonl")]
    rows[0]["history"] = []
    write_jsonl(folder / "topics.jsonl", rows)
    seen = []
    execute = costs.execute_stage
    monkeypatch.setattr(costs, "execute_stage", lambda *given: seen.append(given[2]) or execute(*given))
    run(folder, "hybrid.yaml", tmp_path / "out", slots=("bm25",))
    assert "history" not in seen[0][0]
    assert [search["history"] for search in seen[0][1:]] == [turns] * (TOPICS - 1)


@pytest.mark.slow
def test_a_base_whose_vectors_the_index_lacks_is_left_out_with_the_reason(made, encoder_base, tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path / "cache"))
    folder = shutil.copytree(made, tmp_path / "shop")
    task, store = load_task("embedding"), Store(folder / "store")
    random_encoder_adapter(store, "embedder", task, encoder_base, tmp_path / "embedder")
    adapted = (folder / "hybrid.yaml").read_text().replace("k: 6}}]", "k: 6, adapter: embedder}}]")
    (folder / "adapted.yaml").write_text(adapted)
    build_index(folder / "corpus.jsonl", tmp_path / "index", pipelines=[folder / "adapted.yaml"], store=store)
    found = run(folder, "adapted.yaml", tmp_path / "out", corpus=tmp_path / "index")
    assert [variant.name for variant in found.variants] == [FULL, "without bm25", "without dense(embedder)"]
    assert "has no vectors for this pipeline" in found.left_out["base instead of dense(embedder)"]
    in_memory = run(folder, "adapted.yaml", tmp_path / "read")
    assert "base instead of dense(embedder)" in [variant.name for variant in in_memory.variants]


@pytest.mark.slow
def test_the_command_prints_the_table_and_writes_the_report(cli, refused, made, tmp_path):
    command = ("ablate", made / "hybrid.yaml", *files_of(made), "--store", made / "store", "--out", tmp_path / "out")
    called = cli(*command, "--measure", "nDCG@5")
    assert called.code == 0, called
    assert "| bm25 | nothing |" in called.out and f"Report: {tmp_path / 'out' / 'report.html'}" in called.out
    again = cli(*command, "--measure", "nDCG@5", "--json")
    lines = json.loads(again.out)["slots"]
    assert [line["in_its_place"] for line in lines] == ["as it is", "nothing", "as it is", "nothing"]
    assert "Runs taken from" in again.err
    assert all(one["slot"] <= other["slot"] for one, other in pairwise(lines))
    assert "no slot 'colour'" in refused(*command, "--slot", "colour")


@pytest.mark.slow
def test_costs_of_every_slot_are_shown_after_an_ablation_of_one(made, tmp_path):
    one = run(made, "hybrid.yaml", tmp_path, slots=("bm25",))
    assert one.costs[FULL].keys() == {"bm25"}
    both = run(made, "hybrid.yaml", tmp_path)
    assert both.reused == (FULL, "without bm25")
    assert both.costs[FULL].keys() == {"bm25", "dense"}


@pytest.mark.slow
def test_an_ablation_killed_between_the_results_and_the_card_of_a_variant_goes_on(made, tmp_path):
    first = run(made, "hybrid.yaml", tmp_path)
    database = sqlite3.connect(tmp_path / "runs" / "results.sqlite")
    with database:
        card = "DELETE FROM results WHERE label = ? AND json_extract(value, '$.pipeline') IS NOT NULL"
        assert database.execute(card, [first.variants[-1].name]).rowcount == 1
    database.close()
    again = run(made, "hybrid.yaml", tmp_path)
    assert again.reused == tuple(variant.name for variant in first.variants)
    assert again.comparison == first.comparison
