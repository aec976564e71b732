"""`tune --ranking-model`: a fusion learns from judged topics how to order its documents."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import yaml

from searchlora.adapters.store import Store
from searchlora.errors import DataError, PipelineError, UsageError
from searchlora.eval.judgments.card import JudgmentsCard, write_card
from searchlora.experiments.tune_ranking import FUSION, LEARNED, Topic, TuneRankingResult, cross_validated, tune_ranking
from searchlora.experiments.tune_weights import tune_weights
from searchlora.pipelines.config import read_pipeline
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.stages.fuse import ranking_features
from searchlora.systems.lineage import base_reference, seen_by_run
from searchlora.systems.pipeline import run_card
from searchlora.testing import build_tiny_encoder
from tests.factories import read_jsonl, write_jsonl

PARTS = [{"bm25": {"fields": {"title": 1}}}, {"bm25": {"fields": {"text": 1}}}]


def shop(folder, topics=60, *, judged=True):
    """Each topic has ten documents with its word, of which the most popular one is relevant."""
    rng, documents, queries, qrels = random.Random(0), [], [], []
    for number in range(topics):
        word = f"word{chr(97 + number // 26)}{chr(97 + number % 26)}"
        popular = rng.sample(range(100), 10)
        for place, votes in enumerate(popular):
            row = {"id": f"{word}{place}", "title": word if place % 2 else "thing", "text": f"{word} thing {place}"}
            documents.append({**row, "votes": str(votes)})
        queries.append({"id": f"t{number}", "query": word})
        best = popular.index(max(popular))
        qrels.append(f"t{number} 0 {f'{word}{best}' if judged else 'none'} 1\n")
    folder.mkdir(exist_ok=True)
    for name, rows in (("documents.jsonl", documents), ("topics.jsonl", queries)):
        write_jsonl(folder / name, rows)
    (folder / "qrels.txt").write_text("".join(qrels), encoding="utf-8")
    return folder


def tuned(folder, stages=({"fuse": {"of": PARTS}},), verb=tune_ranking, **options):
    content = {"name": "shop", "corpus": "documents.jsonl", "stages": list(stages)}
    (folder / "shop.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    inputs = (read_pipeline(folder / "shop.yaml"), folder / "topics.jsonl", folder / "qrels.txt")
    return verb(*inputs, folder / "tuned.yaml", store=folder / "store", **options)


@pytest.mark.slow
def test_a_model_learns_what_the_fusion_cannot_know_and_the_pipeline_uses_it(tmp_path):
    folder = shop(tmp_path / "shop")
    done = tuned(folder, fields=["votes"])
    learned, fused = (done.comparison.row(name, "nDCG@10").value for name in (LEARNED, FUSION))
    assert learned > fused + 0.3 and done.comparison.comparisons[0].p_corrected < 0.01
    assert next(iter(done.gains)) == "field.votes" and sum(done.gains.values()) == pytest.approx(1)
    written = yaml.safe_load(done.path.read_text(encoding="utf-8"))
    names = ["bm25 (1)", "bm25 (2)"]
    model = {"model": str(done.model), "model_parts": names, "fields": ["votes"]}
    assert written["stages"] == [{"fuse": {"of": PARTS, **model}}]
    card = json.loads((folder / "tuned.ranking.json").read_text(encoding="utf-8"))
    assert card["cross_validation"]["n"] == 60 == len(card["queries"]) and card["model_parts"] == names
    pipeline = Pipeline.load(done.path)
    topics = read_jsonl(folder / "topics.jsonl")
    first = [search["hits"][0].document for search in pipeline.execute(topics)]
    relevant = [line.split()[2] for line in (folder / "qrels.txt").read_text(encoding="utf-8").splitlines()]
    assert sum(one == other for one, other in zip(first, relevant, strict=True)) > 50
    assert pipeline.labels[0].startswith("ltr(") and "model=" in pipeline.labels[0]


@pytest.mark.slow
def test_the_same_inputs_give_the_same_model_and_another_file_another_identity(tmp_path):
    folder = shop(tmp_path / "shop")
    first = tuned(folder).model.read_bytes()
    done = tuned(folder)
    assert done.model.read_bytes() == first
    (settings,) = read_pipeline(done.path).stages
    before = settings.identity()
    tuned(folder, fields=["votes"])
    assert settings.identity()["model"] != before["model"]
    (plain,) = read_pipeline(folder / "shop.yaml").stages
    assert not {"model", "fields"} & plain.identity().keys()


@pytest.mark.slow
def test_a_model_makes_its_topics_and_its_judge_known_to_experiments(tmp_path):
    folder = shop(tmp_path / "shop", 30)
    write_card(folder / "qrels.txt", JudgmentsCard("llm", "2026-07-01", judge="judge@1", judge_lineage=("judge@1",)))
    pipeline = Pipeline.load(tuned(folder).path)
    card = run_card("ltr", pipeline, Store(folder / "store"))
    assert card.lineage == ("judge@1",) and card.unknown_sources == ()
    topics = {"t0": {"query": "wordaa"}, "new": {"query": "tent"}}
    assert seen_by_run(Store(folder / "store"), card, topics) == ("t0",)
    (folder / "tuned.ranking.json").unlink()
    assert run_card("ltr", pipeline, Store(folder / "store")).unknown_sources == ("ranking model tuned.ranking.txt",)


@pytest.mark.slow
def test_parts_keep_their_names_where_one_is_left_out_and_retraining_needs_no_old_model(tmp_path):
    folder = shop(tmp_path / "shop", 30)
    done = tuned(folder, [{"fuse": {"of": [*PARTS, {"bm25": {"k": 5}}]}}])
    (settings,) = read_pipeline(done.path).stages
    left = settings.with_parts({1: settings.parts[1], 2: settings.parts[2]})
    assert left.model_parts == ("bm25 (2)", "bm25 (3)")
    features = ranking_features(left, {})
    assert features.names[0] == "bm25_(2).score"
    done.model.unlink()
    again = tune_ranking(
        read_pipeline(done.path), folder / "topics.jsonl", folder / "qrels.txt", folder / "again.yaml",
        corpus=folder / "documents.jsonl",
    )  # fmt: skip
    assert again.model.is_file()


@pytest.mark.slow
def test_the_identity_of_a_fusion_has_the_model_of_a_fusion_in_it(tmp_path):
    folder = shop(tmp_path / "shop", 30)
    inner = yaml.safe_load(tuned(folder).path.read_text(encoding="utf-8"))["stages"][0]
    content = {"name": "outer", "stages": [{"fuse": {"of": [inner, {"bm25": {}}]}}]}
    (folder / "outer.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    (settings,) = read_pipeline(folder / "outer.yaml").stages
    before = settings.identity()
    tuned(folder, fields=["votes"])
    assert settings.identity() != before


def test_grades_of_any_size_are_learned_from(tmp_path):
    folder = shop(tmp_path / "shop", 40)
    text = (folder / "qrels.txt").read_text(encoding="utf-8")
    graded = "".join(line.replace(" 1\n", f" {100 + number}\n") for number, line in enumerate(text.splitlines(True)))
    (folder / "qrels.txt").write_text(graded, encoding="utf-8")
    assert tuned(folder, fields=["votes", "votes"]).model.is_file()


def test_too_few_topics_or_a_field_without_numbers_are_refused(tmp_path):
    with pytest.raises(DataError, match="10 topics have a relevant document among the retrieved ones, at least 20"):
        tuned(shop(tmp_path / "few", 10))
    with pytest.raises(DataError, match="0 topics have a relevant document"):
        tuned(shop(tmp_path / "unjudged", judged=False))
    folder = shop(tmp_path / "shop")
    with pytest.raises(DataError, match="no document has a number in the field 'price'"):
        tuned(folder, fields=["price"])
    assert not (folder / "tuned.yaml").exists() and not (folder / "tuned.ranking.txt").exists()


def test_weights_are_not_chosen_where_a_model_orders(tmp_path):
    folder = shop(tmp_path / "shop", 30)
    done = tuned(folder)
    with pytest.raises(PipelineError, match="without a ranking model"):
        tuned(folder, [{"fuse": {"of": PARTS, "model": str(done.model)}}], tune_weights)


@pytest.mark.slow
def test_a_judge_that_is_part_of_the_pipeline_is_refused_or_marked(tmp_path):
    folder = shop(tmp_path / "shop", 25)
    encoder = build_tiny_encoder(folder / "encoder")
    reference = base_reference(str(encoder))
    write_card(folder / "qrels.txt", JudgmentsCard("llm", "2026-07-01", judge=reference, judge_lineage=(reference,)))
    stages = [{"fuse": {"of": [PARTS[1], {"dense": {"model": str(encoder)}}]}}]
    with pytest.raises(UsageError, match="circular"):
        tuned(folder, stages)
    assert tuned(folder, stages, allow_circular=True).circular


class Noise:
    """A model that orders documents at random, in another way for each number of trees."""

    def predict(self, matrix, num_iteration, num_threads):
        del num_threads
        return np.random.default_rng([int(matrix[0, 0] * 1e6), num_iteration]).random(len(matrix))


@pytest.mark.slow
def test_where_nothing_can_be_learned_a_model_is_rarely_better(monkeypatch):
    """With the number of trees chosen on the folds that decide, it was better in 10 of 100 simulations."""
    monkeypatch.setattr("searchlora.experiments.tune_ranking.trained", lambda *_: Noise())
    better = 0
    for seed in range(100):
        rng, topics, grades = np.random.default_rng(seed), [], {}
        for number in range(60):
            ids, relevant = [f"d{place}" for place in range(10)], int(rng.integers(10))
            fused = dict(zip(ids, rng.random(10).tolist(), strict=True))
            of_topic = [int(place == relevant) for place in range(10)]
            topics.append(Topic(f"t{number}", f"t{number}", ["q"], ids, rng.random((10, 1)), of_topic, fused))
            grades[f"t{number}"] = {ids[relevant]: 1}
        trees, comparison = cross_validated(topics, ["x"], grades, "nDCG@10", 10)
        better += TuneRankingResult(None, None, comparison, trees, {}).is_better
    assert better <= 5
