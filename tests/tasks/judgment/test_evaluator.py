"""Agreement measures over all rows equal scikit-learn; an invalid answer counts as the worst."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from searchlora.data.building import build
from searchlora.outputs import Grade, InvalidOutput
from searchlora.task import EvaluationInput
from searchlora.tasks.judgment import task
from searchlora.tasks.judgment.baselines import BM25, COMMONEST, fitted_baselines

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
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    build(task, source, format="native", out=tmp_path / "data")
    test = [json.loads(line) for line in (tmp_path / "data" / "test.jsonl").open(encoding="utf-8")]
    found = task.baselines(test, tmp_path / "data")
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
