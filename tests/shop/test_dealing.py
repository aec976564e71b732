from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchlora.shop.sampling import SPLITS, deal, distinct, portions


@given(st.integers(0, 10_000))
def test_portions_sum_to_the_total(total: int):
    assert sum(portions(total, SPLITS).values()) == total


@pytest.mark.slow
@given(st.sets(st.text(max_size=3), min_size=3), st.text(max_size=3))
def test_every_topic_is_assigned_once_and_every_split_has_one(topics: set[str], seed: str):
    dealt = deal(sorted(topics), seed=seed)
    assert sorted(topic for each in dealt.values() for topic in each) == sorted(topics)
    assert all(dealt[split] for split in SPLITS)
    assert deal(sorted(topics), seed=seed) == dealt


def test_reordered_words_are_duplicates_and_sampling_terminates():
    queries = iter(["red tent", "tent red", None, "Red, tent!"] + ["blue tent"] * 2000)
    seen: set[tuple[str, ...]] = set()

    def write() -> dict[str, str] | None:
        query = next(queries)
        return {"query": query} if query else None

    assert [row["query"] for row in distinct(write, 5, seen)] == ["red tent", "blue tent"]
    assert seen == {("red", "tent"), ("blue", "tent")}
