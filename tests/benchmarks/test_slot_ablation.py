"""The benchmark of slots: folds as one ablation, samples, and test topics that no adapter of theirs was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.judgment_chorus.folds import Chorus
from benchmarks.rewriting_msrd import __main__ as rewriting_msrd
from benchmarks.slot_ablation import __main__ as benchmark
from benchmarks.slot_ablation import intents, movies, topic_sets
from benchmarks.slot_ablation.folds import Fold, TestSet
from searchlora.adapters.store import Store
from searchlora.errors import UsageError
from searchlora.eval.trec import read_run, write_qrels
from searchlora.experiments.ablate import ablate
from searchlora.experiments.options import AblationOptions
from searchlora.experiments.reports import ablation_markdown, write_ablation
from searchlora.models.resolve import BaseModel
from searchlora.pipelines.config import read_pipeline
from searchlora.systems.costs import CostedPipeline
from searchlora.task import load_generation_task
from tests.factories import random_adapter

TOPICS = 8


def fold(number: int | None, ids: range, **slots: str | int) -> Fold:
    return Fold(number, slots, [{"id": f"q{n}", "query": f"tent {n % 3}"} for n in ids])


def shop(*folds: Fold) -> TestSet:
    return TestSet("chorus", "product_search", "unused", folds, {}, ("nDCG@10",))


def test_names_of_the_folds_adapters_become_one_name() -> None:
    second = fold(2, range(1))
    assert second.without_number("without chorus-judge-2") == "without chorus-judge"
    assert second.without_number("base instead of dense(mtrag-embedder-2)") == "base instead of dense(mtrag-embedder)"
    assert second.without_number("chorus-judge-2@2") == "chorus-judge@2"
    assert second.without_number("rank-2-judge and judge-21") == "rank-2-judge and judge-21"
    assert fold(None, range(1)).without_number("judge-2") == "judge-2"


def test_a_sample_is_drawn_from_all_folds_and_is_repeatable() -> None:
    whole = shop(fold(1, range(300)), fold(2, range(300, 600)))
    sample = whole.sampled(100)
    ids = [topic["id"] for of_fold in sample.folds for topic in of_fold.topics]
    assert len(ids) == len(set(ids)) == 100 == sample.topics
    assert {of_fold.number for of_fold in sample.folds} == {1, 2}
    assert whole.sampled(100) == sample
    assert whole.sampled(1).topics == 1 and len(whole.sampled(1).folds) == 1
    assert whole.sampled().topics == 600


@pytest.mark.slow
def test_every_topic_is_served_by_adapters_that_were_not_trained_on_it(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_sets, "WORK", tmp_path)
    chorus = topic_sets.chorus(real_data, ["judge"])
    assert chorus.topics == 135 and [each.slots["judge"] for each in chorus.folds] == [
        "chorus-judge-1",
        "chorus-judge-2",
        "chorus-judge-3",
    ]
    pairs = Chorus.read(real_data, tmp_path / "judgment_chorus" / "all")
    for number, each in enumerate(chorus.folds):
        trained = {record["query"] for record in pairs.dataset(number, tmp_path / f"fold{number}").records("train")}
        assert trained and not trained & {topic["query"] for topic in each.topics}
        assert all(chorus.qrels[topic["id"]] for topic in each.topics)

    mtrag = topic_sets.mtrag(real_data, ["embedder"])
    rows = topic_sets.MtRag.read(real_data)
    for number, each in enumerate(mtrag.folds):
        assert each.slots["embedder"] == f"mtrag-embedder-{number + 1}"
        trained = {row["question"] for row in rows.training(number)}
        asked = {topic["query"] for topic in each.topics}
        assert asked and not asked & trained and all(topic["history"] for topic in each.topics)
    ids = [topic["id"] for each in mtrag.folds for topic in each.topics]
    assert len(ids) == len(set(ids)) and set(ids) <= set(mtrag.qrels)


def test_intents_of_chorus_state_what_the_shown_words_name() -> None:
    products = [
        {"id": f"p{n}", "title": f"Acme X{n} Notebook black", "supplier": "Acme", "attr_t_product_type": "Notebook"}
        for n in range(40)
    ]
    products += [{"id": f"s{n}", "title": f"Rare S{n} cable", "supplier": "Rare"} for n in range(3)]
    schema, rows = intents.intents(products, 200)
    assert schema["properties"]["brand"]["enum"] == ["Acme", None]  # Rare has too few products
    assert schema["properties"]["category"]["enum"] == ["Notebook", None]
    texts = [row["query"] for row in rows]
    assert len(texts) == len(set(texts)) > 50
    for row in rows:
        words = row["query"].split()
        assert row["object"] == {
            "brand": "Acme" if "acme" in words else None,
            "category": "Notebook" if "notebook" in words else None,
        }
    assert {row["object"]["brand"] for row in rows} == {"Acme", None}
    assert intents.intents(products, 200) == (schema, rows)


def test_a_judge_of_movies_learns_from_the_first_hits_of_queries_of_different_families() -> None:
    records = [{"id": f"q{n}", "group": f"family {n // 3}", "query": f"film {n}"} for n in range(30)]
    chosen = movies.of_different_families(records, 14)
    assert len({record["group"] for record in chosen[:10]}) == 10 and len(chosen) == 14
    passages = [{"id": f"m{n}", "title": f"film {n}", "text": "a film"} for n in range(6)]
    searches = [{"id": "q1", "query": "film", "passages": passages}, {"id": "q2", "query": "x", "passages": passages}]
    grades = {"m0": 1, "m1": 0, "m2": 0, "m3": 0, "m5": 1}  # m4 has no grade
    rows = list(movies.pairs(searches, {"q1": grades, "q2": {"m0": 1, "m1": 0, "m2": 0}}))
    assert [(row["id"], row["grade"]) for row in rows] == [("q1 m1", 0), ("q1 m2", 0), ("q1 m0", 1), ("q1 m5", 1)]


@pytest.mark.slow
def test_no_movie_judge_is_asked_about_a_query_that_it_learned_from(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (topic_sets, rewriting_msrd):
        monkeypatch.setattr(module, "WORK", tmp_path)
    test = topic_sets.msrd_judge(real_data, ["judge"])
    with pytest.raises(UsageError, match=r"benchmarks\.ranking msrd"):
        topic_sets.msrd_judge_ranked(real_data, ["judge"])
    families = {record["group"] for split in movies.QUERIES for record in movies.dataset_of_queries().records(split)}
    assert test.topics == topic_sets.JUDGED_QUERIES and test.adapters_only
    assert not families & {topic["family"] for topic in test.folds[0].topics}


def test_a_missing_adapter_names_the_benchmark_that_trains_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no adapter 'chorus-judge-1'.*benchmarks\.judgment_chorus.*--without judge"):
        topic_sets.gathered(shop(fold(1, range(1))), ["judge"], tmp_path / "store", work=tmp_path)


@pytest.mark.slow
def test_the_folds_give_the_figures_of_one_ablation_and_finished_runs_are_reused(
    tiny_base: BaseModel, encoder_base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both folds have the same weights under two names, so that one ablation over all topics must give the same."""
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path / "cache"))
    trained = Store(tmp_path / "judgment_chorus" / "store")
    for name in ("chorus-judge-1", "chorus-judge-2"):
        random_adapter(trained, name, load_generation_task("judgment"), tiny_base, tmp_path / name, seed=1)
    documents = [{"id": f"d{n}", "title": f"tent {n % 3}", "text": f"number {n % 5}"} for n in range(12)]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(each) + "\n" for each in documents), encoding="utf-8")
    slots: Mapping[str, Any] = {"encoder": str(encoder_base.path), "depth": 4}
    folds = [
        fold(1, range(3), judge="chorus-judge-1", **slots),
        fold(2, range(3, TOPICS), judge="chorus-judge-2", **slots),
    ]
    qrels = {
        topic["id"]: {each["id"]: 1 + n % 2 for n, each in enumerate(documents) if each["title"] == topic["query"]}
        for of_fold in folds
        for topic in of_fold.topics
    }
    test = TestSet("chorus", "product_search", corpus, folds, qrels, ("nDCG@5", "MRR@5"))
    one = read_pipeline("product_search", [f"{key}={value}" for key, value in folds[0].slots.items()])
    assert benchmark._changed(one, adapters_only=False) == ["bm25", "dense", "chorus-judge-1"]
    assert benchmark._changed(one, adapters_only=True) == ["chorus-judge-1"]
    store = topic_sets.gathered(test, ["judge"], tmp_path / "work" / "store", work=tmp_path)
    found = benchmark.ablated(test, store, tmp_path / "work")

    whole = fold(None, range(TOPICS), **folds[0].slots)
    (tmp_path / "topics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in whole.topics), encoding="utf-8")
    write_qrels(tmp_path / "qrels.txt", qrels)
    once = ablate(
        read_pipeline("product_search", [f"{key}={value}" for key, value in whole.slots.items()]),
        tmp_path / "topics.jsonl",
        tmp_path / "qrels.txt",
        tmp_path / "once",
        AblationOptions(("bm25", "dense", "chorus-judge-1"), measures=test.measures),
        corpus=corpus,
        store=trained,
    )
    names = ["full pipeline", "without bm25", "without dense", "without chorus-judge", "base instead of chorus-judge"]
    assert [variant.name for variant in found.variants] == names
    for ours, theirs in zip(found.comparison.comparisons, once.comparison.comparisons, strict=True):
        assert (ours.difference, ours.low, ours.high, ours.p) == pytest.approx(
            (theirs.difference, theirs.low, theirs.high, theirs.p)
        )
    assert found.comparison.row("without dense", "MRR@5").n == TOPICS
    tokens = "prompt tokens per query"
    assert found.costs["full pipeline"]["chorus-judge"][tokens] == pytest.approx(
        once.costs["full pipeline"]["chorus-judge-1"][tokens]
    )
    assert len(read_run(found.experimented.runs["without chorus-judge"].path)) == TOPICS
    table = benchmark.table(found, test)
    assert table.startswith(ablation_markdown(found))
    assert "Pipeline `product_search` on 8 test topics. Adapters: `chorus-judge`, of 2 folds." in table
    assert "without chorus-judge" in write_ablation(found, tmp_path / "work" / "chorus").read_text(encoding="utf-8")
    assert benchmark.about(found, test)["adapters"]["fold 2"] == {"judge": "chorus-judge-2"}

    monkeypatch.setattr(CostedPipeline, "run", lambda *_: pytest.fail("nothing is missing"))
    again = benchmark.ablated(test, store, tmp_path / "work")
    assert again.comparison.rows == found.comparison.rows
