"""Temperature and thresholds: fitted on validation rows, and kept only if they help on other queries."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.outputs import Grade, InvalidOutput
from searchlora.tasks.judgment.tuning import best_thresholds, cohen_kappa, grade_of, tuned, with_tuning

SCALE = (0, 1, 2, 3)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from(SCALE)), min_size=4, max_size=25))
def test_thresholds_of_one_query_are_optimal(rows):
    scores, gold = [score for score, _ in rows], [grade for _, grade in rows]
    found = best_thresholds(scores, gold, ["q"] * len(rows), SCALE)
    assert list(found) == sorted(found)
    places = [min(scores) - 1, *np.quantile(scores, np.linspace(0, 1, 22)[1:-1]), max(scores) + 1]
    best = max(
        cohen_kappa(gold, [grade_of(score, each, SCALE) for score in scores], SCALE)
        for each in combinations_with_replacement(sorted(set(places))[:: max(1, len(set(places)) // 8)], 3)
    )
    assert cohen_kappa(gold, [grade_of(score, found, SCALE) for score in scores], SCALE) >= best - 1e-12


def rows(queries: int, each: int, sharpness: float, seed: int = 0, shift: float = 0.0):
    """Records and outputs whose probabilities are the true ones, to a power, and leaning to grade 0."""
    rng = random.Random(seed)
    records, outputs = [], []
    for query in range(queries):
        for number in range(each):
            truth = np.array([rng.random() ** 2 + 0.02 for _ in SCALE])
            truth /= truth.sum()
            grade = rng.choices(SCALE, truth)[0]
            predicted = truth**sharpness * np.exp([-shift * each for each in SCALE])
            predicted /= predicted.sum()
            records.append({"id": f"{query} {number}", "group": f"q{query}", "grade": grade})
            outputs.append(Grade(int(predicted.argmax()), tuple(predicted.tolist())))
    return records, outputs


@pytest.mark.slow
def test_raters_who_disagree_make_the_judge_less_certain():
    """Three raters draw their grades from the true probabilities; their majority is more certain than they are."""
    records, outputs = rows(12, 60, 1.0)
    rng = random.Random(1)
    merged, voted = [], []
    for record, output in zip(records, outputs, strict=True):
        votes = Counter(rng.choices(SCALE, output.probabilities, k=3))
        grade = max(votes, key=lambda each: (votes[each], -each))
        merged.append({**record, "grade": grade})
        voted.append({**merged[-1], "votes": {str(each): count for each, count in votes.items()}})
    of_merged, of_votes = (tuned(each, outputs, SCALE)["temperature"] for each in (merged, voted))
    assert of_votes == pytest.approx(1.0, rel=0.1)
    assert of_merged < 0.8


@pytest.mark.slow
def test_thresholds_improve_a_judge_with_a_constant_grade():
    records, outputs = rows(12, 40, 1.0, shift=2.5)
    assert sum(output.value == 0 for output in outputs) > 0.85 * len(outputs)
    values = tuned(records, outputs, SCALE)
    assert values["validation"]["kappa with thresholds"] > values["validation"]["kappa"] + 0.05
    others, predicted = rows(12, 40, 1.0, seed=1, shift=2.5)
    gold = [each["grade"] for each in others]
    after = [with_tuning(each, values, SCALE) for each in predicted]
    kappas = [cohen_kappa(gold, [each.value for each in outputs], SCALE) for outputs in (after, predicted)]
    assert kappas[0] > kappas[1]
    assert all(sum(each.probabilities) == pytest.approx(1) for each in after)


def test_thresholds_are_dropped_if_the_most_probable_grade_is_as_good():
    rng = random.Random(3)
    records, outputs = [], []
    for number in range(200):  # bimodal: the expected grade is between the modes, the most probable grade is right
        grade = rng.choice((0, 3))
        wrong = 3 - grade
        chances = [0.0, 0.0, 0.0, 0.0]
        chances[grade], chances[wrong] = 0.51, 0.49
        records.append({"id": str(number), "group": f"q{number % 10}", "grade": grade})
        outputs.append(Grade(grade, tuple(chances)))
    values = tuned(records, outputs, SCALE)
    assert "thresholds" not in values and values["validation"]["kappa"] == pytest.approx(1)
    assert [with_tuning(each, values, SCALE).value for each in outputs] == [each.value for each in outputs]


def test_too_few_rows_queries_or_probabilities_tune_nothing():
    assert tuned(*rows(10, 4, 1.0), SCALE) == {}
    assert tuned(*rows(4, 100, 1.0), SCALE) == {}
    records, outputs = rows(10, 10, 1.0)
    assert tuned(records, [Grade(each.value) for each in outputs], SCALE) == {}
    assert tuned(records, [InvalidOutput("x", "no") for _ in outputs], SCALE) == {}
