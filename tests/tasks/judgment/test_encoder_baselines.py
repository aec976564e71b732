"""Baselines of the judgment task over a frozen encoder: the cosine, and boosting of classical features."""

from __future__ import annotations

import random

import numpy as np
import pytest

from searchlora.tasks.judgment.encoder_baselines import BoostingBaseline, CosineBaseline, cosines, features

SCALE = (0, 1, 2, 3)
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
