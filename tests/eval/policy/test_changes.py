"""Differences between two policies: what is none, and what loosens a policy."""

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
    ("strict", "loose"),
    [
        ({"beat": {"base": {"margin": 0.1}}}, {"beat": {"base": {"margin": 0.05}}}),
        ({"beat": {"base": {}, "incumbent": {}}}, {"beat": {"base": {}}}),
        ({"beat": {"base": {}, "baselines": "all"}}, {"beat": {"base": {}}}),
        ({"beat": {"baselines": ["BM25", "x"]}}, {"beat": {"baselines": ["x"]}}),
        ({"beat": {"baselines": {"margin": 0.1}}}, {"beat": {"baselines": {"margin": 0.0}}}),
        ({"slices": {"kind": {}}}, {}),
        ({"slices": {"kind": {}}}, {"slices": {"kind": {"max_fall": 0.1}}}),
        ({"slices": {"kind": {}}}, {"slices": {"kind": {"values": ["a"]}}}),
        ({"slices": {"kind": {"values": ["a", "b"]}}}, {"slices": {"kind": {"values": ["a"]}}}),
        ({"slices": {"kind": {"by": "interval"}}}, {"slices": {"kind": {}}}),
        ({"slices": {"kind": {}}}, {"slices": {"kind": {"min_rows": 10}}}),
        ({"slices": {"kind": {"min_rows": 10}}}, {"slices": {"kind": {"min_rows": 20}}}),
        ({"max_invalid_rate": 0.1}, {"max_invalid_rate": 0.2}),
        ({"max_invalid_rate": 0.1}, {}),
        ({"max_latency_ms": 9, "max_latency_ratio": 2}, {"max_latency_ms": 9}),
        ({"min_rows": 100}, {"min_rows": 10}),
        ({"min_groups": 100}, {}),
        ({"data": "0123456789"}, {}),
        ({"data": "0123456789"}, {"data": "01234567"}),
        ({"judgments": ["human"]}, {"judgments": ["human", "llm"]}),
        ({"held_out": "required"}, {"held_out": "reported"}),
    ],
)
def test_a_loosened_rule_is_told_from_a_tightened_one(strict, loose):
    loosened, tightened = changed(strict, loose), changed(loose, strict)
    assert loosened and not any(change.stricter for change in loosened)
    assert tightened and all(change.stricter for change in tightened)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"measure": "kappa"}, {"measure": "MAE"}),
        ({"data": "0123456789"}, {"data": "abcdef0123"}),
        ({"judgments": ["human"]}, {"judgments": ["llm"]}),
        ({"beat": {"baselines": "all"}}, {"beat": {"baselines": ["BM25"]}}),
        ({"beat": {"baselines": ["BM25"]}}, {"beat": {"baselines": "all"}}),
        ({"beat": {"baselines": {"margin": 0.1}}}, {"beat": {"baselines": {"margin": 0.1}, "BM25": {}}}),
    ],
)
def test_a_change_that_may_loosen_is_not_taken_for_a_stricter_one(before, after):
    assert [change.stricter for change in changed(before, after)] == [False]
