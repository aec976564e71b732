"""Differences between two policies, and what is none."""

from __future__ import annotations

import pytest

from searchlora.eval.policy.changes import changes
from searchlora.eval.policy.policy import Policy, read_policy


def changed(before, after):
    return changes(*(Policy.model_validate(each).model_dump(mode="json") for each in (before, after)))


def test_order_comments_and_spelling_of_a_file_are_no_change(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "beat:\n  base: {margin: 0.0}\n  incumbent: {}\n  baselines: [BM25, tf-idf]\njudgments: [human, mixed]\n"
        "slices: {kind: {values: [a, b]}}\nmin_rows: 20\n"
    )
    (tmp_path / "b.yaml").write_text(
        "# renamed\nmin_rows: 20   # rows\nslices:\n  kind:\n    values: [b, a]\njudgments: [mixed, human]\n"
        "beat: {incumbent: {margin: 0}, baselines: [TF-IDF, bm25], base: {}}\nheld_out: null\n"
    )
    a, b = (read_policy(tmp_path / name).model_dump(mode="json") for name in ("a.yaml", "b.yaml"))
    assert changes(a, b) == changes(b, a) == ()


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ({"beat": {"base": {}}}, {"beat": {"base": {"margin": 0.1}}}, "beat.base.margin was 0.0, is 0.1"),
        ({"beat": {"base": {}}}, {"beat": {"base": {}, "x": {}}}, "beat.x.margin was not set, is 0.0"),
        ({"beat": {"baselines": ["BM25"]}}, {"beat": {"baselines": "all"}}, "baselines.systems was [bm25], is all"),
        ({"slices": {"kind": {"values": ["a"]}}}, {"slices": {"kind": {}}}, "slices.kind.values was [a], is not set"),
        ({"max_invalid_rate": 0.1}, {}, "max_invalid_rate was 0.1, is not set"),
        ({"judgments": ["human"]}, {"judgments": ["llm", "human"]}, "judgments was [human], is [human, llm]"),
    ],
)
def test_each_changed_key_is_shown_with_its_values(before, after, says):
    assert changed(before, after) == (says,)
