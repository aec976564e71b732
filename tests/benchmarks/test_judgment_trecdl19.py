"""The judgment benchmark without a model: folds, pretraining pairs, and figures known in advance."""

from __future__ import annotations

import json

import pytest

from benchmarks.judgment_trecdl19 import systems
from benchmarks.judgment_trecdl19.answering import Answers
from benchmarks.judgment_trecdl19.folds import EACH, FOLDS, VALIDATING, Topics, fold_dataset
from benchmarks.judgment_trecdl19.warm import passages, warm_records
from searchlora.eval.text_identity import normalised
from searchlora.eval.trec import read_qrels
from searchlora.outputs import Grade


@pytest.fixture(scope="module")
def topics(real_data) -> Topics:
    return Topics.read(real_data / "trecdl19")


def one_hot(grade: int) -> Grade:
    return Grade(grade, tuple(float(each == grade) for each in range(4)))


@pytest.fixture
def perfect(topics) -> Answers:
    """Grades of an adapter that equal the human ones, and of a base that are always 1."""
    pairs = [pair for row in topics.pairs.values() for pair in row]
    adapter = {f"{pair['topic']} {pair['document']}": one_hot(pair["grade"] or 0) for pair in pairs}
    return Answers(adapter, dict.fromkeys(adapter, one_hot(1)), [{}] * FOLDS, {})


@pytest.mark.slow
def test_every_query_is_tested_once_by_an_adapter_not_trained_on_it(topics, tmp_path):
    folds = topics.folds()
    assert sorted(topic for fold in folds for topic in fold) == sorted(topics.pairs)
    dataset = fold_dataset(topics, 2, tmp_path / "fold")
    groups = {split: {each["group"] for each in dataset.records(split)} for split in ("train", "validation", "test")}
    assert groups["test"] == {normalised(topics.pairs[topic][0]["query"]) for topic in folds[2]}
    assert len(groups["validation"]) == VALIDATING
    assert len(groups["train"]) == 43 - VALIDATING - len(folds[2])
    assert not groups["train"] & groups["test"] and not groups["validation"] & (groups["train"] | groups["test"])
    trained: dict[tuple[str, int], int] = {}
    for record in dataset.records("train"):
        trained[record["group"], record["grade"]] = trained.get((record["group"], record["grade"]), 0) + 1
    assert max(trained.values()) == EACH
    assert fold_dataset(topics, 2, tmp_path / "fold").fingerprint == dataset.fingerprint


def test_paragraphs_are_split_into_whole_sentences_without_loss():
    paragraph = "One two three. " * 40 + "The end"
    found = passages(paragraph)
    assert " ".join(text for _, text in found) == paragraph
    assert all(paragraph[start:].startswith(text) for start, text in found)
    assert all(text.endswith(".") and len(text.split()) == 57 for _, text in found[:-1])


@pytest.mark.slow
def test_only_the_passage_of_grade_3_contains_the_answer(real_data):
    records = [each for each in warm_records(real_data) if each["id"].startswith("squad-")]
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
    import gzip

    with gzip.open(real_data / "squad" / "squaddev_v1.1.json.gz") as file:
        return json.load(file)


@pytest.mark.slow
def test_human_grades_agree_with_themselves_and_bm25_matches_published_values(topics, perfect, real_data, tmp_path):
    perfect.save(tmp_path / "answers.json")
    assert Answers.load(tmp_path / "answers.json") == perfect
    judges = systems.judges(topics, perfect)
    comparison, evaluations = systems.agreement(topics, judges)
    assert {name: len(grades) for name, grades in judges.items()} == dict.fromkeys(judges, 2257)
    assert evaluations[systems.ADAPTER_TUNED].figures()["kappa"] == 1
    assert evaluations[systems.ZERO_SHOT].figures()["kappa"] == pytest.approx(0)
    assert evaluations[systems.BM25].figures()["kappa"] > 0.02
    assert set(comparison.measures) == set(systems.MEASURES)
    assert {each.measure for each in comparison.comparisons} == {"kappa", "kappa binary"}
    qrels = read_qrels(real_data / "trecdl19" / "qrels.dl19-passage.txt")
    assert systems.labels(judges, systems.ADAPTER)["264014"].items() <= qrels["264014"].items()

    reranked = systems.reranking(systems.runs(topics, perfect), qrels)
    means = {row.system: row.value for row in reranked.rows if row.measure == "nDCG@10"}
    assert means["BM25"] == pytest.approx(0.5058, abs=5e-5)  # as Anserini and Pyserini give it
    assert means["base zero-shot"] == pytest.approx(means["BM25"])  # all alike: the old order stays
    assert means["adapter"] == max(means.values())
