"""Agreement measures equal scikit-learn, an invalid answer counts as the worst, and baselines over an encoder."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from searchlora.outputs import Grade, InvalidOutput
from searchlora.task import EvaluationInput
from searchlora.tasks.judgment import task
from searchlora.tasks.judgment.baselines import BM25, COMMONEST, fitted_baselines
from searchlora.tasks.judgment.encoder_baselines import BoostingBaseline, CosineBaseline, cosines, features
from tests.factories import native_dataset, read_jsonl

SCALE = (0, 1, 2, 3)
NO_GRADE = InvalidOutput("relevant", "not a grade of the scale")


def records(grades, queries: int = 3):
    return [{"id": f"{n}", "group": f"q{n % queries}", "grade": grade} for n, grade in enumerate(grades)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*label")
@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(SCALE), st.sampled_from(SCALE)), min_size=3, max_size=40))
def test_figures_equal_scikit_learn(pairs):
    gold, predicted = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    found = task.evaluate(EvaluationInput(records(gold), [Grade(grade) for grade in predicted])).figures()
    theirs = {
        "kappa": cohen_kappa_score(gold, predicted, labels=SCALE),
        "kappa binary": cohen_kappa_score([each >= 2 for each in gold], [each >= 2 for each in predicted]),
        "kappa quadratic": cohen_kappa_score(gold, predicted, labels=SCALE, weights="quadratic"),
        "MAE": np.abs(np.subtract(gold, predicted)).mean(),
        "bias": np.subtract(predicted, gold).mean(),
        "agreement": np.equal(gold, predicted).mean(),
        "invalid": 0.0,
    }
    for name, value in theirs.items():
        assert found[name] == pytest.approx(value, nan_ok=True), name


def test_an_invalid_answer_counts_as_the_worst_and_is_never_a_grade():
    gold = [0, 1, 2, 3]
    right = task.evaluate(EvaluationInput(records(gold), [Grade(grade) for grade in gold]))
    found = task.evaluate(EvaluationInput(records(gold), [Grade(0), Grade(1), NO_GRADE, Grade(3)]))
    assert right.figures()["kappa"] == 1
    assert found.figures()["kappa"] < 1 and found.figures()["MAE"] == pytest.approx(2 / 4)
    assert found.figures()["bias"] == 0  # over the valid ones
    assert found.values["invalid"] == {"0": 0.0, "1": 0.0, "2": 1.0, "3": 0.0}
    assert found.invalid == {"2": "not a grade of the scale"}
    assert found.confusions["grades"].counts[2] == (0, 0, 0, 0, 1)
    assert found.headline == "kappa" and found.clusters["3"] == "q0"
    assert found.slices["human grade"] == {"0": "0", "1": "1", "2": "2", "3": "3"}


def test_calibration_uses_the_probability_of_relevance():
    gold = [0, 3, 3, 0]
    sure = [Grade(0, (1.0, 0.0, 0.0, 0.0)), Grade(3, (0.0, 0.0, 0.0, 1.0))]
    found = task.evaluate(
        EvaluationInput(records(gold), [sure[0], sure[1], Grade(0, (0.5, 0.0, 0.25, 0.25)), Grade(2)])
    )
    assert found.figures()["calibration error"] == pytest.approx(0.5 / 3)
    assert len(found.curves["probability of relevant"]) == 3
    assert "calibration error" not in task.evaluate(EvaluationInput(records(gold), [Grade(0)] * 4)).figures()


def test_baselines_learn_from_the_training_split(tmp_path):
    rows = []
    for number in range(40):
        query = f"query{number} tent"
        for grade, text in ((0, f"boots and socks {number}"), (0, f"other things {number}"), (3, f"a {query} here")):
            rows.append({"id": f"{number} {grade}{text[0]}", "group": query, "query": query, "passage": text})
            rows[-1]["grade"] = grade
    data = native_dataset(task, tmp_path / "data", rows)
    test = read_jsonl(data / "test.jsonl")
    found = task.baselines(test, data)
    assert found[COMMONEST] == [Grade(0)] * len(test)
    assert task.evaluate(EvaluationInput(test, found[BM25])).figures()["kappa"] == pytest.approx(1)


def test_bm25_baseline_thresholds_the_score_relative_to_the_best():
    """As they are no cut point divides them: the second best of one query is above the best of another."""
    rows = [
        {"id": f"{n} {place}", "group": f"q{n}", "query": f"q{n}", "passage": f"p{n} {place}", "grade": grade}
        for n in range(8)
        for place, grade in enumerate((3, 0, 0))
    ]
    scores = {f"{n} {place}": share * 2.0**n for n in range(8) for place, share in enumerate((10, 3, 0))}
    found = fitted_baselines(rows[:6], rows[6:], SCALE, score=lambda pairs: [scores[each["id"]] for each in pairs])
    assert [each.value for each in found[BM25]] == [3, 0, 0] * 2


def test_calibration_against_the_raters_is_over_records_with_several():
    half = Grade(2, (0.25, 0.25, 0.25, 0.25))
    rated = [
        {"id": "a", "group": "q", "grade": 2, "votes": {"1": 1, "2": 1}},
        {"id": "b", "group": "q", "grade": 0, "votes": {"0": 3, "3": 1}},
        {"id": "c", "group": "r", "grade": 3, "votes": {"3": 1}},
        {"id": "d", "group": "r", "grade": 3},
    ]
    figures = task.evaluate(EvaluationInput(rated, [half] * 4)).figures()
    assert figures["calibration error, raters"] == pytest.approx(0.125)  # .5 against a mean share of .375
    assert figures["calibration error"] == pytest.approx(0.25)  # .5 against 3 of 4
    assert "calibration error, raters" not in task.evaluate(EvaluationInput(rated[2:], [half] * 2)).figures()


WORDS = ("red", "tent", "blue", "boots", "warm", "hat")


def encode(texts):
    """Vectors of length 1 with a dimension for each word."""
    counts = np.array([[1e-6 + text.split().count(word) for word in WORDS] for text in texts], dtype=np.float32)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def graded(queries, *, title="", seed=0):
    """Pairs whose grade is the number of the query's words in the passage, which is hidden in others."""
    rng, rows = random.Random(seed), []
    for number in range(queries):
        words = rng.sample(WORDS, 3)
        others = [word for word in WORDS if word not in words]
        for grade in SCALE:
            passage = " ".join([*words[:grade], *others[: 3 - grade]])
            rows.append(
                {"group": f"q{number}", "query": " ".join(words), "passage": passage, "title": title, "grade": grade}
            )
    return rows


@pytest.mark.parametrize("kind", [CosineBaseline, BoostingBaseline])
def test_a_baseline_learns_grades_that_its_features_give_away(kind):
    baseline = kind(SCALE)
    baseline.fit(graded(60), [], encode)
    test = graded(20, seed=1)
    predicted = [output.value for output in baseline.predict(test, encode)]
    agreeing = np.mean([grade == row["grade"] for grade, row in zip(predicted, test, strict=True)])
    assert agreeing > 0.9


def test_a_cosine_is_of_query_and_title_with_passage():
    pairs = [
        {"query": "red tent", "passage": "red tent"},
        {"query": "red tent", "passage": "boots", "title": ""},
        {"query": "red tent", "passage": "red", "title": "tent"},
    ]
    assert cosines(pairs, encode) == pytest.approx([1, 0, 1], abs=1e-4)


def test_features_are_of_a_pair_and_relative_to_its_query():
    rows = [
        {"query": "red tent", "passage": "red tent warm", "title": "tent"},
        {"query": "red tent", "passage": "boots", "title": "boots"},
        {"query": "blue hat", "passage": "warm hat", "title": "hat"},
    ]
    bm25, titles, cosine, below, asked, length, share = features(rows, encode).T
    assert bm25.tolist() == [1, 0, 1] and titles.tolist() == [1, 0, 1]
    assert below == pytest.approx([0, cosine[1] - cosine[0], 0])
    assert asked.tolist() == [2, 2, 2] and length.tolist() == [4, 2, 3] and share.tolist() == [1, 0, 0.5]
    assert (features(graded(2), encode)[:, 1] == 0).all()  # no pair has a title


def test_boosting_learns_from_the_pairs_of_one_query():
    rows = [{**row, "group": "q"} for row in graded(30)]
    baseline = BoostingBaseline(SCALE)
    baseline.fit(rows, [], encode)
    assert {output.value for output in baseline.predict(rows, encode)} <= set(SCALE)
