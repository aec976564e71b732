"""Law 6 for encoders: the card of a run names its encoders, so that they may not judge it."""

from __future__ import annotations

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import DataError, UsageError
from searchlora.eval.judgments import card
from searchlora.eval.judgments.card import JudgmentsCard, card_path, read_run_card, write_card
from searchlora.eval.judgments.lineage import query_hash
from searchlora.eval.trec import read_run, write_qrels
from searchlora.experiments.experiment import experiment
from searchlora.experiments.run import run
from searchlora.experiments.spec import Experiment
from searchlora.pipelines.config import read_pipeline
from searchlora.systems.lineage import run_lineage, seen_by_run
from searchlora.testing import build_tiny_encoder
from tests.factories import edit_json, write_jsonl

ENCODER = "all-minilm-l6-v2"
TEXTS = {"d1": "waterproof boots", "d2": "a green tent", "d3": "tent pegs"}
QUERIES = {"q1": "green tent", "q2": "boots"}


@pytest.fixture
def folder(tmp_path):
    """Queries, corpus, an LLM's qrels, and a tiny encoder in a folder called as the judge is."""
    build_tiny_encoder(tmp_path).rename(tmp_path / ENCODER)
    rows = {"corpus.jsonl": ("text", TEXTS), "topics.jsonl": ("query", QUERIES)}
    for name, (field, texts) in rows.items():
        write_jsonl(tmp_path / name, [{"id": each, field: text} for each, text in texts.items()])
    (tmp_path / "bm25.yaml").write_text("name: bm25\nstages:\n- bm25: {k: 3}\n")
    (tmp_path / "dense.yaml").write_text("name: dense\nparameters: {encoder: x}\nstages:\n- dense: {model: $encoder}\n")
    write_qrels(tmp_path / "qrels.txt", {"q1": {"d2": 1}, "q2": {"d1": 1}})
    reference = f"base {ENCODER}"
    card = JudgmentsCard("llm", "2026-07-01", judge=reference, judge_lineage=(reference,), counts={"llm": 2})
    write_card(tmp_path / "qrels.txt", card)
    return tmp_path


def searched(folder, pipeline, *overrides):
    files = folder / "topics.jsonl", folder / "corpus.jsonl", folder / "run.trec"
    run(read_pipeline(pipeline, overrides), *files, store=folder / "store")
    return read_run_card(files[-1])


def compared(folder, systems, **options):
    spec = Experiment(
        name="encoders",
        topics={"path": folder / "topics.jsonl"},
        qrels={"path": folder / "qrels.txt"},
        corpus=folder / "corpus.jsonl",
        systems=systems,
        baseline="bm25" if "bm25" in systems and len(systems) > 1 else None,
        measures=("nDCG@3",),
    )
    return experiment(spec, folder / "out", store=folder / "store", **options)


def hybrid(folder):
    return {"pipeline": "hybrid", "set": {"encoder": str(folder / ENCODER)}}


@pytest.mark.parametrize("pipeline", ["hybrid", "dense.yaml"])
def test_a_card_names_the_encoder_without_local_paths(folder, pipeline):
    place = pipeline if pipeline == "hybrid" else folder / pipeline
    card = searched(folder, place, f"encoder={folder / ENCODER}")
    assert (card.adapters, card.lineage, card.bases) == ((), (f"base {ENCODER}",), (ENCODER,))
    assert str(folder) not in (folder / "run.trec.card.json").read_text()
    assert searched(folder, folder / "bm25.yaml").lineage == ()


def test_an_unwritable_output_is_reported_before_searching(folder):
    with pytest.raises(DataError, match="cannot be written"):
        run(folder / "bm25.yaml", folder / "topics.jsonl", folder / "corpus.jsonl", folder)


@pytest.mark.slow
def test_a_judge_that_also_retrieves_is_circular(folder):
    bm25 = {"pipeline": str(folder / "bm25.yaml")}
    with pytest.raises(UsageError, match=f"system hybrid: .*the judge base {ENCODER} and the system share"):
        compared(folder, {"bm25": bm25, "hybrid": hybrid(folder)})
    found = compared(folder, {"bm25": bm25, "hybrid": hybrid(folder)}, allow_circular=True)
    assert found.comparison.circular.keys() == {"hybrid"}
    assert not compared(folder, {"bm25": bm25}).comparison.circular


@pytest.mark.slow
def test_a_run_is_recomputed_for_another_encoder_of_the_same_name(folder):
    first = compared(folder, {"hybrid": hybrid(folder)}, allow_circular=True)
    before = read_run(first.runs["hybrid"].path)
    assert compared(folder, {"hybrid": hybrid(folder)}, allow_circular=True).reused == ("hybrid",)
    (folder / ENCODER).rename(folder / "old")
    build_tiny_encoder(folder / "other", seed=1).rename(folder / ENCODER)
    again = compared(folder, {"hybrid": hybrid(folder)}, allow_circular=True)
    assert again.reused == ()
    assert read_run(again.runs["hybrid"].path) != before


def test_a_bare_base_has_one_name_as_system_and_as_judge(folder):
    assert run_lineage(Store(folder / "store"), (), [str(folder / ENCODER)]).references == (f"base {ENCODER}",)


@pytest.mark.parametrize("name", ["run.trec", "run.trec.gz"])
def test_a_kill_between_card_and_run_never_leaves_a_run_without_its_card(folder, monkeypatch, name):
    files = folder / "topics.jsonl", folder / "corpus.jsonl", folder / name
    write = card._written_run

    def killed(*arguments):
        write(*arguments)
        raise KeyboardInterrupt

    def interrupted():
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(card, "_written_run", killed)
            run(folder / "bm25.yaml", *files, store=folder / "store")

    interrupted()
    assert not files[-1].exists()
    run(folder / "bm25.yaml", *files, store=folder / "store")
    before = read_run_card(files[-1])
    assert before is not None
    (folder / "corpus.jsonl").write_text('{"id": "d9", "text": "green boots"}')
    interrupted()
    with pytest.raises(DataError, match="was changed since its card"):
        read_run_card(files[-1])
    run(folder / "bm25.yaml", *files, store=folder / "store")
    assert read_run_card(files[-1]).run_sha256 != before.run_sha256
    assert sorted(file.name for file in folder.glob(".new-*")) == []


def test_queries_on_which_an_earlier_release_learned_weights_count_as_seen(folder):
    searched(folder, folder / "bm25.yaml")
    queries = [query_hash("green tent")]
    edit_json(card_path(folder / "run.trec"), lambda values: values.update(ranking_queries=queries))
    topics = {name: {"query": query} for name, query in QUERIES.items()}
    assert seen_by_run(Store(folder / "store"), read_run_card(folder / "run.trec"), topics) == ("q1",)
