"""The judgment benchmark without a model: pools, training sets, and figures known in advance."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.judges import ADAPTER, ZERO_SHOT, labels
from benchmarks.judgment_trecdl19 import made_queries, pools, systems
from benchmarks.judgment_trecdl19.answering import ENCODER, Answers, pairs_of
from benchmarks.judgment_trecdl19.pools import EACH, PASSAGES, VALIDATING, Pool, taught, training_set, validation_topics
from searchlora.eval.text_identity import normalised
from searchlora.outputs import Grade
from searchlora.progress import no_progress
from searchlora.retrieval.encoder import Encoder


@pytest.fixture(scope="module")
def dl19_pool(real_data) -> Pool:
    return pools.dl19(real_data)


@pytest.fixture(scope="module")
def pool(real_data) -> Pool:
    return pools.learning_pool(real_data)


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
        {0: 4198, 1: 2759, 2: 1865, 3: 1120},
    ]
    assert (len(dl19_pool.queries), len(pool.queries), len(dl19_pool.runs), len(pool.runs)) == (43, 54 + 53 + 76, 6, 6)
    assert len(dl19_pool.retrieved()) == 4300


@pytest.mark.slow
def test_validation_queries_are_whole_and_no_test_query_is_trained_on(dl19_pool, pool, tmp_path):
    dataset = training_set(pool, tmp_path / "training")
    groups = {split: {each["group"] for each in dataset.records(split)} for split in ("train", "validation")}
    assert groups["validation"] == {normalised(pool.queries[topic]) for topic in validation_topics(pool)}
    assert (len(groups["validation"]), len(groups["train"])) == (VALIDATING, 54 + 53 + 76 - VALIDATING)
    assert not groups["train"] & groups["validation"]
    assert not {normalised(query) for query in dl19_pool.queries.values()} & (groups["train"] | groups["validation"])
    rows = dataset.records("train")
    assert all("teacher" in record for record in rows)
    assert max(Counter(record["group"] for record in rows).values()) <= 4 * EACH + PASSAGES
    assert len(dataset.records("validation")) == len(pool.judged(validation_topics(pool)))
    assert training_set(pool, tmp_path / "training").fingerprint == dataset.fingerprint


@pytest.mark.slow
def test_teachers_order_passages_better_than_bm25_and_what_none_found_is_last(pool):
    for topic in validation_topics(pool)[:5]:
        scores, bm25 = taught(pool, topic), pool.runs[pools.BM25][topic]
        found = {document for name in pools.TEACHERS for document in pool.runs[name].get(topic, ())}
        assert {scores[document] for document in bm25.keys() - found} <= {min(scores.values())}
    topics = validation_topics(pool)
    runs = {"teachers": {topic: taught(pool, topic) for topic in topics}, "BM25": pool.runs[pools.BM25]}
    ndcg = {name: systems._ndcg({topic: run[topic] for topic in topics}, pool.all_qrels) for name, run in runs.items()}
    assert ndcg["teachers"] > ndcg["BM25"] + 0.15


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
    assert chosen["score"]["validation nDCG@10"].keys() == set(systems.SCORES)
    assert means[ADAPTER] == means[systems.FUSED] == means[systems.FUSED_ENCODER] == max(means.values())


@pytest.mark.slow
def test_made_queries_touch_no_passage_of_a_validation_query_and_no_judged_query_of_the_test(dl19_pool, pool):
    validating = validation_topics(pool)
    of_validation = {document for topic in validating for run in pool.runs.values() for document in run.get(topic, ())}
    of_validation |= {document for topic in validating for document in pool.all_qrels[topic]}
    texts = made_queries.documents(pool)
    assert len(texts) > 20_000
    assert not texts.keys() & of_validation
    rows = made_queries.known(pool)
    kept_back = {pool.queries[topic] for topic in validating} | set(dl19_pool.queries.values())
    assert not {row["rewrite"] for row in rows} & kept_back
    assert Counter(split for split, _ in {(row["split"], row["rewrite"]) for row in rows}) == {
        "train": 54 + 53 + 76 - VALIDATING - made_queries.VALIDATING - 1,  # no passage of one has a good grade
        "validation": made_queries.VALIDATING,
    }
    graded = [(row["id"].split("-"), row) for row in rows if pool.qrels[row["id"].split("-")[0]]]
    assert graded
    assert all(pool.qrels[topic].get(document, 0) >= 2 for (topic, document), _ in graded)


@pytest.mark.slow
def test_made_queries_are_taught_by_an_encoder_and_dropped_if_their_passage_is_not_among_the_best(pool):
    texts = dict(list(made_queries.documents(pool).items())[:300])
    first, second = list(texts)[:2]
    made = [
        {"id": first, "rewrite": " ".join(texts[first].split()[:12])},
        {"id": second, "rewrite": " ".join(texts[first].split()[12:24])},  # the query of another passage
    ]
    rows = made_queries.taught_rows(made, texts, Encoder.load(ENCODER), no_progress)
    assert {row["query"] for row in rows} == {made[0]["rewrite"]}
    assert rows[0]["passage"] == texts[first]
    assert len(rows) == len({row["id"] for row in rows}) == 1 + made_queries.NEAR + made_queries.FAR
    assert sum(row["teacher"] for row in rows) == pytest.approx(0, abs=0.01)
    assert rows[0]["teacher"] in sorted(row["teacher"] for row in rows)[-made_queries.RANK :]
    assert not any("grade" in row for row in rows)
