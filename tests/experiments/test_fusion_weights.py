"""Fusion weights: measured on a grid from hits that are retrieved once, and chosen by `tune_weights`."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
import yaml

from searchlora.adapters.ancestry import TRAINING_QUERIES
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.store import Store
from searchlora.data.collection import corpus_path
from searchlora.errors import DataError, PipelineError, UsageError
from searchlora.eval.formats import read_qrels
from searchlora.eval.intervals import bootstrap_interval
from searchlora.eval.judgments.card import JudgmentsCard, write_card
from searchlora.eval.judgments.lineage import query_hash
from searchlora.eval.measures import retrieval_values
from searchlora.experiments.fusion_weights import measure_weights, search_parts, weight_grid
from searchlora.experiments.tune_weights import tune_weights
from searchlora.models.resolve import resolve
from searchlora.pipelines.config import read_pipeline
from searchlora.pipelines.corpus import open_corpus
from searchlora.pipelines.pipeline import Pipeline, build_pipeline, run_of
from searchlora.pipelines.slots import with_weights
from searchlora.pipelines.stages.stage import FUSED_QUERIES
from searchlora.records import Document
from searchlora.systems.lineage import base_reference
from searchlora.task import load_task
from searchlora.testing import build_tiny_encoder
from tests.factories import encoder_recipe_for, random_encoder_folder, read_jsonl, write_jsonl

DOCUMENTS = [
    Document("d1", "red couch for two"),
    Document("d2", "red red tent"),
    Document("d3", "couch couch couch blue"),
    Document("d4", "blue lamp"),
]
QUERIES = {"q1": "red couch", "q2": "blue couch", "q3": "red lamp"}
SEARCHES = [{"id": topic, "query": query} for topic, query in QUERIES.items()]
QRELS = {"q1": {"d1": 2}, "q2": {"d3": 1, "d1": 1}, "q3": {"d4": 1}}


def pipeline(tmp_path, parts=3, method="rrf"):
    of = ", ".join(["{bm25: {k: 2}}", "{bm25: {k: 3, b: 0}}", "{bm25: {k: 2, k1: 3}}"][:parts])
    file = tmp_path / "hybrid.yaml"
    file.write_text(f"name: hybrid\nstages:\n  - fuse: {{k: 3, method: {method}, of: [{of}]}}\n", encoding="utf-8")
    return Pipeline.load(file, corpus=DOCUMENTS)


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_the_grid_has_all_tenths_that_add_up_to_1(parts):
    grid = weight_grid(parts)
    assert len(set(grid)) == len(grid) == comb(10 + parts - 1, parts - 1)
    assert all(sum(weights) == pytest.approx(1) for weights in grid)


@pytest.mark.parametrize("method", ["rrf", "combsum"])
def test_parts_searched_once_are_fused_as_the_pipeline_with_these_weights_does(tmp_path, method):
    hybrid = pipeline(tmp_path, method=method)
    # Searched with two queries, as after `rewrite: fuse`.
    searches = [{**SEARCHES[0], FUSED_QUERIES: ("lamp", "red couch")}, *SEARCHES[1:]]
    searched = search_parts(hybrid, searches)
    for weights in ((0.2, 0.3, 0.5), (0.0, 0.4, 0.6), (1.0, 0.0, 0.0)):
        changed = build_pipeline(
            "changed", with_weights(hybrid.settings, weights), store=Store("none"), documents=open_corpus(DOCUMENTS)
        )
        expected = {str(search["id"]): search["hits"] for search in changed.execute(searches)}
        fused = {topic: searched.settings.fused_hits(hits, weights) for topic, hits in searched.hits.items()}
        assert fused == expected


def test_each_choice_of_weights_has_its_mean_and_interval(tmp_path):
    hybrid = pipeline(tmp_path, 2)
    reported = []
    searched = search_parts(hybrid, SEARCHES)
    scores = measure_weights(searched, QRELS, progress=lambda done, *_: reported.append(done))
    assert [score.weights for score in scores] == weight_grid(2) and reported == list(range(1, 12))
    values = retrieval_values(run_of(hybrid.execute(SEARCHES)), QRELS, ["nDCG@10"])["nDCG@10"]
    equal = scores[5]
    assert (equal.weights, equal.n) == ((0.5, 0.5), 3)
    assert equal.value == pytest.approx(np.mean(list(values.values())))
    assert (equal.low, equal.high) == pytest.approx(bootstrap_interval(list(values.values())))


def test_a_topic_without_hits_counts_0(tmp_path):
    searched = search_parts(pipeline(tmp_path, 2), SEARCHES[:1])
    alone, with_another = (measure_weights(searched, {"q1": {"d1": 1}, **more}) for more in ({}, {"q9": {"d1": 1}}))
    assert [score.value / 2 for score in alone] == pytest.approx([score.value for score in with_another])


# Tuning


@pytest.fixture
def shop(tmp_path):
    """A word is in the text of one document and the title of another; the text is relevant in 8 of 12 topics."""
    documents, topics, qrels = [], [], []
    for number in range(12):
        word = f"word{chr(97 + number)}"
        documents += [
            {"id": f"a{number}", "title": "thing", "text": word},
            {"id": f"z{number}", "title": word, "text": "thing"},
        ]
        topics.append({"id": f"t{number}", "query": word})
        qrels.append(f"t{number} 0 {'z' if number % 3 == 0 else 'a'}{number} 1\n")
    write_jsonl(tmp_path / "documents.jsonl", documents)
    write_jsonl(tmp_path / "topics.jsonl", topics)
    (tmp_path / "qrels.txt").write_text("".join(qrels), encoding="utf-8")
    return tmp_path


def tuned(shop, stages, qrels="qrels.txt", **options):
    content = {"name": "shop", "parameters": {"depth": 10}, "corpus": "documents.jsonl", "stages": stages}
    (shop / "shop.yaml").write_text(yaml.safe_dump(content))
    (shop / "out").mkdir(exist_ok=True)
    config, out = read_pipeline(shop / "shop.yaml", ["depth=5"]), shop / "out" / "tuned.yaml"
    return tune_weights(config, shop / "topics.jsonl", shop / qrels, out, store=shop / "store", **options)


PARTS = [{"bm25": {"fields": {"title": 1}}}, {"bm25": {"k": "$depth", "fields": {"text": 1}}}]


def test_the_best_weights_are_written_with_the_pipeline(shop):
    chosen = tuned(shop, [{"fuse": {"method": "combsum", "of": PARTS}}, {"passages": {"k": 2}}])
    assert (chosen.best.weights, chosen.own.weights) == ((0.4, 0.6), (1.0, 1.0))
    assert chosen.best.value > chosen.own.value and (chosen.best.n, chosen.parts) == (12, ("bm25 (1)", "bm25 (2)"))
    text = chosen.path.read_text(encoding="utf-8")
    assert f"weights: nDCG@10 {chosen.best.value:.4f} on 12 topics" in text.splitlines()[0]
    written = yaml.safe_load(text)
    assert written["stages"] == [
        {"fuse": {"method": "combsum", "of": PARTS, "weights": [0.4, 0.6]}},
        {"passages": {"k": 2}},
    ]
    assert written["parameters"] == {"depth": 5}
    run = run_of(Pipeline.load(chosen.path).execute(read_jsonl(shop / "topics.jsonl")))
    values = retrieval_values(run, read_qrels(shop / "qrels.txt"), ["nDCG@10"])["nDCG@10"]
    assert np.mean(list(values.values())) == pytest.approx(chosen.best.value)


def test_a_corpus_that_is_a_parameter_is_found_from_the_tuned_file(shop):
    tuned(shop, [{"fuse": {"of": PARTS}}])
    text = (shop / "shop.yaml").read_text().replace("corpus: documents.jsonl", "corpus: $corpus")
    (shop / "shop.yaml").write_text(text.replace("parameters:", "parameters:\n  corpus: documents.jsonl"))
    config = read_pipeline(shop / "shop.yaml")
    how = {"store": shop / "store"}
    tune_weights(config, shop / "topics.jsonl", shop / "qrels.txt", shop / "out" / "again.yaml", **how)
    found = corpus_path(read_pipeline(shop / "out" / "again.yaml").corpus)
    assert found.resolve() == (shop / "documents.jsonl").resolve()


def test_a_part_whose_best_weight_is_0_is_left_out(shop):
    (shop / "words.txt").write_text("".join(f"t{number} 0 a{number} 1\n" for number in range(12)), encoding="utf-8")
    parts = [{"bm25": {"k": 1, "fields": {"title": 1}}}, {"bm25": {"k": 1, "fields": {"text": 1}}}]
    chosen = tuned(shop, [{"fuse": {"k": 1, "of": parts}}], "words.txt", measure="P@1")
    assert chosen.best.value == 1
    assert Pipeline.load(chosen.path).search("worda")["hits"][0]["document"] == "a0"


def test_what_has_no_weights_to_choose_is_refused(shop):
    for stages in ([{"bm25": {}}], [{"fuse": {"of": PARTS[:1]}}], [{"fuse": {"of": PARTS * 2}}]):
        with pytest.raises(PipelineError, match="shop: no stage fuses"):
            tuned(shop, stages)
    (shop / "none.txt").write_text("x 0 a0 1\n", encoding="utf-8")
    with pytest.raises(DataError, match="none of the judged topics"):
        tuned(shop, [{"fuse": {"of": PARTS}}], "none.txt")
    assert not (shop / "out" / "tuned.yaml").exists()


def test_topics_that_an_adapter_has_seen_are_refused_or_marked(shop):
    encoder, seen = build_tiny_encoder(shop / "encoder"), read_jsonl(shop / "topics.jsonl")[0]
    base = resolve(str(encoder))
    made = random_encoder_folder(base, shop / "adapter")
    (shop / TRAINING_QUERIES).write_text(f"{query_hash(seen['query'])}\n")
    how = {"task": load_task("embedding"), "recipe": encoder_recipe_for(base), "base": base}
    store_adapter(Store(shop / "store"), "embedder", made, **how, extra_files=[shop / TRAINING_QUERIES])
    stages = [{"fuse": {"of": [PARTS[0], {"dense": {"model": str(encoder), "adapter": "embedder"}}]}}]
    with pytest.raises(UsageError, match=f"trained or validated on 1 of .* topics, such as {seen['id']}"):
        tuned(shop, stages)
    assert "1 of" in tuned(shop, stages, allow_circular=True).circular


def test_a_judge_that_is_part_of_the_pipeline_is_refused_or_marked(shop):
    encoder = build_tiny_encoder(shop / "encoder")
    reference = base_reference(str(encoder))
    write_card(shop / "qrels.txt", JudgmentsCard("llm", "2026-07-01", judge=reference, judge_lineage=(reference,)))
    stages = [{"fuse": {"of": [PARTS[0], {"dense": {"model": str(encoder)}}]}}]
    with pytest.raises(UsageError, match="circular"):
        tuned(shop, stages)
    assert tuned(shop, stages, allow_circular=True).circular
