"""Tests of drift: changes are found, and equal samples raise an alarm no more often than they may."""

from __future__ import annotations

import random

import numpy as np
import pytest

from searchlora.eval.drift import (
    LEAST,
    DriftTest,
    alarms,
    labels_test,
    queries_test,
    values_test,
    words_test,
)

SHOP = ("red", "green", "blue", "large", "small", "cheap", "couch", "tent", "lamp", "table", "chair", "shelf")
LAW = ("statute", "court", "appeal", "liability", "contract", "tort", "damages", "clause", "breach", "ruling")


def queries(n, words=SHOP, seed=0):
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=3)) for _ in range(n)]


def test_other_queries_are_told_apart_and_the_same_ones_are_not():
    changed = queries_test(queries(300), [*queries(200, seed=1), *queries(100, LAW, 2)])
    assert changed.p < 0.001
    assert changed.after > 0.6
    same = queries_test(queries(300), queries(300, seed=1))
    assert same.p > 0.01
    assert abs(same.after - 0.5) < 0.15


def test_a_query_that_is_often_asked_counts_once():
    found = queries_test([*queries(100), *["red tent"] * 1000], queries(100, seed=1))
    assert found.n_before <= 101


def test_vectors_of_an_encoder_can_be_used():
    def encode(texts):
        return np.array([[float("court" in text), 1.0] for text in texts])

    found = queries_test(queries(100), [f"court {query}" for query in queries(100, seed=1)], encode)
    assert found.after == 1.0


@pytest.mark.slow
def test_false_alarms_of_queries_are_as_rare_as_they_may_be():
    """Two halves of one sample differ significantly in at most 5% of the draws, and a little more by chance."""
    everything = sorted(set(queries(2000)))
    rng = random.Random(3)
    false = 0
    for seed in range(100):
        rng.shuffle(everything)
        half = len(everything) // 2
        false += queries_test(everything[:half], everything[half:], seed=seed).p <= 0.05
    assert false <= 11  # 99% of the binomial distribution of 100 draws at 5%


def test_new_words_are_compared_with_those_that_are_new_in_any_half():
    before = {f"s{n}": [query] for n, query in enumerate(queries(200))}
    same = words_test(before, {f"t{n}": [query] for n, query in enumerate(queries(200, seed=1))})
    assert (same.before, same.after, same.p) == (0, 0, 1)
    found = words_test(before, {f"t{n}": [query] for n, query in enumerate(queries(200, LAW))})
    assert (found.after, found.p < 0.001) == (1, True)


def test_queries_that_both_periods_ask_are_no_drift():
    often = [f"{one} {other}" for one in SHOP for other in SHOP]
    shares = 1 / np.arange(1, len(often) + 1)
    rng = np.random.default_rng(5)

    def drawn(n):
        return [often[number] for number in rng.choice(len(often), n, p=shares / shares.sum())]

    found = [queries_test(drawn(400), drawn(300), seed=seed) for seed in range(20)]
    assert sum(test.p <= 0.05 for test in found) <= 2
    assert np.mean([test.after for test in found]) == pytest.approx(0.5, abs=0.05)


def test_users_who_come_back_with_their_own_words_are_no_drift():
    rng = random.Random(3)

    def period():
        return {user: [f"own{user}" if rng.random() < 0.3 else "red tent" for _ in range(5)] for user in range(200)}

    assert words_test(period(), period()).p > 0.05


def test_rare_labels_of_a_small_sample_are_no_drift():
    rng, shares = np.random.default_rng(7), 1 / np.arange(1, 61)

    def drawn(n):
        return [str(label) for label in rng.choice(60, n, p=shares / shares.sum())]

    found = [labels_test("intent", drawn(3000), drawn(40), "intents") for _ in range(40)]
    assert sum(test.p <= 0.05 for test in found) <= 6


def test_values_are_means_over_sessions():
    before = {f"s{n}": [0.0] * 5 for n in range(100)}
    one_session = {**before, "odd": [1.0] * 1000}
    assert values_test("x", before, one_session, "x").after == pytest.approx(1 / 101)
    assert values_test("x", before, before, "x").p == 1
    rates = [{f"s{n}": [float(n % 10 < share)] for n in range(200)} for share in (1, 4)]
    found = values_test("no hits", *rates, "searches without hits")
    assert found.p < 0.001
    assert found.effect == pytest.approx(0.3)
    many = [{f"s{n}": [float(n % 10 < share)] for n in range(3000)} for share in (1, 4)]
    assert values_test("no hits", *many, "x").p < 1e-6


def test_labels_are_compared_and_the_one_that_changed_most_is_named():
    before = ["refund"] * 100 + ["delivery"] * 100
    found = labels_test("labels", before, ["refund"] * 150 + ["delivery"] * 50, "intents")
    assert found.p < 0.001
    assert found.finding in ("intents: 'refund' 0.500, now 0.750", "intents: 'delivery' 0.500, now 0.250")
    assert labels_test("labels", before, before, "intents").p == 1
    assert labels_test("labels", ["only"] * 50, ["only"] * 50, "intents").p == 1
    rare = [f"rare {n}" for n in range(5)]
    assert labels_test("labels", [*before * 5, *rare], before * 5, "intents").p > 0.05


def test_small_samples_are_not_compared():
    few = {f"s{n}": [1.0] for n in range(LEAST - 1)}
    many = {f"s{n}": [1.0] for n in range(LEAST)}
    assert values_test("x", few, many, "x") is None
    assert labels_test("x", ["a"] * (LEAST - 1), ["a"] * 100, "x") is None
    assert queries_test(queries(LEAST - 1), queries(100)) is None


def test_an_alarm_needs_significance_over_all_tests_and_an_effect():
    def test(name, p, after):
        return DriftTest(name, 0.0, after, 100, 100, p, "")

    found = alarms([test("a", 0.03, 0.5), test("b", 0.001, 0.5), test("c", 0.001, 0.01)], {"c": 0.02})
    assert [(alarm.test.name, alarm.raised) for alarm in found] == [("a", True), ("b", True), ("c", False)]
    found = alarms([test("a", 0.03, 0.5), test("b", 0.04, 0.5)], {})
    assert not any(alarm.raised for alarm in found)  # 0.06 after Holm's correction
    assert alarms([], {}) == []
