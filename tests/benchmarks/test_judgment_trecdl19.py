"""The judgment benchmark without a model: pools, training sets, and figures known in advance."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import pytest

from benchmarks.judges import ADAPTER, ZERO_SHOT, labels
from benchmarks.judgment_trecdl19 import pools, systems
from benchmarks.judgment_trecdl19.answering import Answers, pairs_of
from benchmarks.judgment_trecdl19.pools import EACH, VALIDATING, Pool, training_set, validation_topics
from benchmarks.judgment_trecdl19.squad_pairs import passages, squad_records
from searchlora.eval.text_identity import normalised
from searchlora.outputs import Grade


@pytest.fixture(scope="module")
def dl19_pool(real_data) -> Pool:
    return pools.dl19(real_data)


@pytest.fixture(scope="module")
def pool(real_data) -> Pool:
    return pools.dl20(real_data)


def one_hot(grade: int) -> Grade:
    return Grade(grade, tuple(float(each == grade) for each in range(4)))


@pytest.fixture
def perfect(dl19_pool, pool) -> Answers:
    """Grades of an adapter that equal the human ones, and of a base that are always 1."""
    pairs = [(part, pair) for part in (dl19_pool, pool) for pair in pairs_of(part, list(part.queries))]
    adapter = {" ".join(pair): one_hot(part.qrels[pair[0]].get(pair[1], 0)) for part, pair in pairs}
    cosines = {id_: 0.1 * grade.value for id_, grade in adapter.items()}
    return Answers(adapter, dict.fromkeys(adapter, one_hot(1)), cosines, {}, {})


@pytest.mark.slow
def test_the_pools_have_the_published_numbers_of_pairs(dl19_pool, pool):
    grades = [Counter(dl19_pool.qrels[topic][document] for topic, document in dl19_pool.judged())]
    grades.append(Counter(pool.qrels[topic][document] for topic, document in pool.judged()))
    assert [dict(sorted(each.items())) for each in grades] == [
        {0: 1589, 1: 955, 2: 1300, 3: 489},
        {0: 2683, 1: 1219, 2: 623, 3: 474},
    ]
    assert (len(dl19_pool.queries), len(pool.queries), len(dl19_pool.runs), len(pool.runs)) == (43, 54, 6, 5)
    assert len(dl19_pool.retrieved()) == 4300


@pytest.mark.slow
def test_validation_queries_are_whole_and_no_test_query_is_trained_on(dl19_pool, pool, tmp_path):
    dataset = training_set(pool, tmp_path / "dl20")
    groups = {split: {each["group"] for each in dataset.records(split)} for split in ("train", "validation")}
    assert groups["validation"] == {normalised(pool.queries[topic]) for topic in validation_topics(pool)}
    assert (len(groups["validation"]), len(groups["train"])) == (VALIDATING, 54 - VALIDATING)
    assert not groups["train"] & groups["validation"]
    assert not {normalised(query) for query in dl19_pool.queries.values()} & (groups["train"] | groups["validation"])
    trained = Counter((record["group"], record["grade"]) for record in dataset.records("train"))
    assert max(trained.values()) == EACH
    assert len(dataset.records("validation")) == len(pool.judged(validation_topics(pool)))
    assert training_set(pool, tmp_path / "dl20").fingerprint == dataset.fingerprint


def test_paragraphs_are_split_into_whole_sentences_without_loss():
    paragraph = "One two three. " * 40 + "The end"
    found = passages(paragraph)
    assert " ".join(text for _, text in found) == paragraph
    assert all(paragraph[start:].startswith(text) for start, text in found)
    assert all(text.endswith(".") and len(text.split()) == 57 for _, text in found[:-1])


@pytest.mark.slow
def test_only_the_passage_of_grade_3_contains_the_answer(real_data):
    records = list(squad_records(real_data, 800))
    with_answers = {
        f"squad-{question['id']}": [normalised(answer["text"]) for answer in question["answers"]]
        for article in _squad(real_data)["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    }
    for record in records:
        held = any(answer in normalised(record["passage"]) for answer in with_answers[record["id"].split()[0]])
        assert not (held and record["grade"] < 3), record
    best = [each for each in records if each["grade"] == 3]
    holding = [
        any(answer in normalised(each["passage"]) for answer in with_answers[each["id"].split()[0]]) for each in best
    ]
    assert len(best) == 800 and sum(holding) > 0.97 * len(best)  # some answers run on into the next sentence


def _squad(real_data):
    with gzip.open(real_data / "squad" / "squaddev_v1.1.json.gz") as file:
        return json.load(file)


@pytest.mark.slow
def test_human_grades_agree_with_themselves_and_bm25_matches_published_values(
    dl19_pool, pool, perfect, tmp_path, monkeypatch
):
    monkeypatch.setattr(systems, "over_encoder", lambda *_: {})  # minutes; `test_judgment_chorus` runs it
    perfect.save(tmp_path / "answers.json")
    assert Answers.load(tmp_path / "answers.json") == perfect
    judges = systems.judges(dl19_pool, pool, perfect, tmp_path)
    comparison, evaluations = systems.agreement(dl19_pool, judges)
    assert {name: len(grades) for name, grades in judges.items()} == dict.fromkeys(judges, 4333)
    assert evaluations[ADAPTER].figures()["kappa"] == 1
    assert evaluations[systems.ENCODED].figures()["kappa"] == evaluations[systems.BOTH].figures()["kappa"] == 1
    assert evaluations[ZERO_SHOT].figures()["kappa"] == pytest.approx(0)
    assert set(comparison.measures) == set(systems.MEASURES)
    assert {each.measure for each in comparison.comparisons} == {"kappa", "kappa binary"}
    found = labels(judges[ADAPTER])
    assert found["264014"] == dl19_pool.qrels["264014"]
    assert systems.orders(dl19_pool, {"perfect": judges[ADAPTER]})["perfect"].tau.value == pytest.approx(1)

    runs, chosen = systems.runs(dl19_pool, pool, perfect)
    assert chosen["weight of BM25"]["chosen"] == 0  # nothing to add to perfect grades
    reranked = systems.reranking(runs, dl19_pool.all_qrels)
    means = {row.system: row.value for row in reranked.rows if row.measure == "nDCG@10"}
    assert means["BM25"] == pytest.approx(0.5058, abs=5e-5)  # as Anserini and Pyserini give it
    assert means[ZERO_SHOT] == pytest.approx(means["BM25"])  # all alike: the old order stays
    assert means[ADAPTER] == means[systems.FUSED] == means[systems.FUSED_ENCODER] == max(means.values())
