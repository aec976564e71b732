"""Evaluations of versions in the store: recorded, listed, and damaged without harm."""

from __future__ import annotations

import json

import pytest

from searchlora import adapters
from searchlora.adapters.aliases import Decision
from searchlora.adapters.evaluations import EVALUATIONS, EvaluationRecord
from searchlora.adapters.store import Store
from searchlora.errors import NotInStore, StoreError, UsageError


def record(version=1, value=0.7, **more):
    figures = {"value": value, "low": 0.6, "high": 0.8, "n": 50}
    return EvaluationRecord(
        **{"version": version, "time": "2026-07-01", "data": "ab" * 32, "split": "test", "measure": "accuracy"}
        | figures
        | more
    )


@pytest.mark.slow
def test_the_latest_evaluation_is_listed_with_the_baselines_that_are_better(stored, store, cli):
    assert store.list()[0].evaluation is None
    store.record_evaluation("echo", record(value=0.5))
    store.record_evaluation("echo", record(split="validation"))
    store.record_evaluation("echo", record(value=0.7, loses_to=("TF-IDF",)))
    assert [(each.split, each.value) for each in store.evaluations("echo")] == [("validation", 0.7), ("test", 0.7)]
    entry = Store(store.root).list()[0]
    assert entry.evaluation == record(value=0.7, loses_to=("TF-IDF",))
    assert stored.reference == entry.reference
    shown = cli("adapters", "list", "--store", store.root).out
    assert "LOSES" in shown and "TF-IDF" in shown
    (listed,) = json.loads(cli("adapters", "list", "--store", store.root, "--json").out)
    assert listed["evaluation"]["loses_to"] == ["TF-IDF"]


def test_the_same_figure_again_changes_no_file(stored, store):
    store.record_evaluation(stored.manifest.name, record())
    before = (store.root / "echo" / EVALUATIONS).stat().st_mtime_ns
    store.record_evaluation("echo", record(time="2026-08-02"))
    assert (store.root / "echo" / EVALUATIONS).stat().st_mtime_ns == before
    store.record_evaluation("echo", record(value=0.71))
    assert [each.value for each in store.evaluations("echo")] == [0.71]


def test_a_version_that_is_not_there_has_no_evaluation(stored, store):
    assert stored.manifest.version == 1
    with pytest.raises(NotInStore):
        store.record_evaluation("echo", record(version=9))
    with pytest.raises(NotInStore):
        store.record_evaluation("nobody", record())
    assert store.evaluations("echo") == ()


@pytest.mark.parametrize("text", ["", "[1]", '[{"version": 1}]', "[" * 100_000, "\udcff"])
def test_a_damaged_file_is_told_and_the_versions_are_listed(stored, store, text):
    (store.root / "echo" / EVALUATIONS).write_bytes(text.encode("utf-8", "surrogateescape"))
    problems = [entry.problem for entry in store.list() if entry.manifest is None]
    assert len(problems) == 1 and "is not a list of evaluations" in problems[0]
    assert [entry.reference for entry in store.list() if entry.manifest is not None] == [stored.reference]
    with pytest.raises(StoreError, match="evaluate again"):
        store.record_evaluation("echo", record())


@pytest.mark.slow
def test_an_alias_with_a_policy_is_moved_by_force_only(stored, store, cli, refused):
    adapters.alias("echo", "production", reason="first", store=store)
    adapters.alias("echo", "canary", store=store)
    decision = Decision(version=1, outcome="promoted", rules=(), policy={}, evidence={})
    store.decide("echo", "production", decision, incumbent=1)
    with pytest.raises(StoreError, match=r"a policy decides about the alias 'production'.*promote.*--force"):
        adapters.alias("echo", "production", store=store)
    with pytest.raises(UsageError, match="--force needs a reason"):
        adapters.alias("echo", "production", force=" ", store=store)
    assert "promote" in refused("adapters", "alias", stored.reference, "production", "--store", store.root)
    adapters.alias("echo", "canary", store=store)
    called = cli("adapters", "alias", stored.reference, "production", "--force", "agreed", "--store", store.root)
    assert called.code == 0 and "agreed" in called.out
    assert store.list()[0].by_hand == {"production"}
