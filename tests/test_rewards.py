"""Rewards of queries by what they retrieve."""

from __future__ import annotations

import pytest

from searchlora.errors import UsageError
from searchlora.outputs import InvalidOutput
from searchlora.records import Hit
from searchlora.rewards import INVALID, RewardContext, rank_reward, retrieval_rewards

QRELS = {"1": {"d3": 2, "d1": 1}, "2": {"d9": 1}, "3": {"d1": 0}}


class Retriever:
    """Documents d1 to d200 for every query; counts the queries."""

    def __init__(self):
        self.searched = []

    def search(self, queries, k):
        self.searched += queries
        ids = [f"d{n}" for n in range(1, 201)]
        return [[Hit(d, float(-n)) for n, d in enumerate(ids[:k] if q == "up" else ids[::-1][:k])] for q in queries]


def test_the_rank_reward_falls_from_two_to_zero():
    assert [rank_reward(rank) for rank in (1, 10, 100, 101, None)] == [2.0, 1.0, 0.0, 0.0, 0.0]
    values = [rank_reward(rank) for rank in range(1, 101)]
    assert values == sorted(values, reverse=True) and len(set(values)) == 100
    assert rank_reward(55) == pytest.approx(0.5)


def test_a_query_is_rewarded_by_the_rank_of_its_first_relevant_document():
    retriever = Retriever()
    context = RewardContext([retriever.search], QRELS)
    topics, queries = ["1", "2", "1", "3", "2"], ["up", "up", "down", "up", InvalidOutput("", "empty")]
    assert retrieval_rewards(topics, queries, context) == [2.0, pytest.approx(2 - 8 / 9), 0.0, None, INVALID]
    assert retriever.searched == ["up", "down"]  # equal queries once


def test_the_lowest_relevant_grade_counts():
    context = RewardContext([Retriever().search], QRELS, relevant=2)
    assert retrieval_rewards(["1", "2"], ["up", "up"], context) == [pytest.approx(2 - 2 / 9), None]


def test_a_measure_of_ir_measures_replaces_the_rank_reward():
    context = RewardContext([Retriever().search], QRELS, measure="MRR@10")
    assert retrieval_rewards(["1", "2", "2"], ["up", "up", "down"], context) == [1.0, pytest.approx(1 / 9), 0.0]
    with pytest.raises(UsageError, match="not a measure"):
        retrieval_rewards(["1"], ["up"], RewardContext([Retriever().search], QRELS, measure="nonsense"))
