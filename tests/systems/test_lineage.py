"""Which records a candidate was trained on, itself or through its parents."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from searchlora.adapters.ancestry import write_training_queries
from searchlora.adapters.manifest import Dataset
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.store import Store
from searchlora.systems.lineage import seen_in_training
from searchlora.task import load_generation_task
from tests.factories import draft_for, random_adapter_folder

pytestmark = pytest.mark.slow

OTHER = SimpleNamespace(fingerprint="another dataset")


def pair(number, query):
    return {"id": f"p{number}", "query": query, "passage": f"passage {number}", "title": ""}


@pytest.fixture(scope="module")
def seen(tmp_path_factory, tiny_base):
    """The ids that an adapter has seen which was trained on the queries `tent` and `stove`."""
    root = tmp_path_factory.mktemp("lineage")

    def found(task_name, records):
        task, store, folder = load_generation_task(task_name), Store(root / "store"), root / task_name
        if not folder.is_dir():
            _, recipe = random_adapter_folder(tiny_base, folder, seed=1)
            write_training_queries(folder, ["tent", "stove"])
            store_adapter(store, task_name, folder, task=task, recipe=recipe, base=tiny_base)
        return seen_in_training(store, store.get(task_name), task, OTHER, "test", records)

    return found


def test_queries_without_further_input_are_compared(seen):
    records = [{"id": str(n), "query": query, "history": []} for n, query in enumerate(["tent", "sofa"])]
    assert seen("rewriting", records) == ("0",)


def test_pairs_of_new_queries_are_known_to_be_new(seen):
    assert seen("judgment", [pair(1, "sofa"), pair(2, "lamp")]) == ()


def test_pairs_of_a_query_that_was_trained_on_are_unknown(seen):
    assert seen("judgment", [pair(1, "sofa"), pair(2, "tent")]) is None


@pytest.fixture(scope="module")
def family(tmp_path_factory, tiny_base):
    """The ids that an adapter of a dataset has seen whose parents are added with their dataset and queries."""
    root = tmp_path_factory.mktemp("family")
    task, store = load_generation_task("rewriting"), Store(root / "store")
    folder, _ = random_adapter_folder(tiny_base, root / "weights", seed=1)
    draft = draft_for(tiny_base, task)

    def add(name, dataset, *parents, queries=()):
        beside = [write_training_queries(root, queries)] if queries else []
        changes = {"dataset": Dataset(fingerprint=dataset * 64, card={}), "parents": list(parents)}
        store.add(name, folder, draft.model_copy(update=changes), extra_files=beside)

    def found(name, split="test"):
        records = [{"id": str(n), "query": query, "history": []} for n, query in enumerate(["tent", "sofa"])]
        dataset = SimpleNamespace(fingerprint="a" * 64)
        return seen_in_training(store, store.get(name), task, dataset, split, records)

    add("first", "a", queries=["stove"])
    add("second", "a", "first@1", queries=["stove", "lamp"])
    add("overlapping", "b", queries=["Tent"])
    add("unknown", "b")
    add("grandchild", "a", "second@1")
    add("of-overlapping", "a", "overlapping@1", queries=["Tent", "stove"])
    add("below-overlapping", "a", "of-overlapping@1")
    add("of-unknown", "a", "unknown@1")
    add("of-removed", "a", "removed@1")
    add("copy-of-removed", "a", "removed@1", queries=["stove"])
    return found


def test_the_test_split_of_the_training_dataset_is_new_to_an_adapter_and_parents_of_that_dataset(family):
    assert family("first") == family("second") == family("grandchild") == ()
    assert family("first", split="validation") == ("0", "1")


def test_queries_of_a_parent_of_another_dataset_are_seen_and_unknown_ones_are_unknown(family):
    assert family("of-overlapping") == family("below-overlapping") == ("0",)
    assert family("of-unknown") is None


def test_a_parent_that_is_not_in_the_store_is_unknown_unless_the_adapter_lists_all_queries(family):
    assert family("of-removed") is None
    assert family("copy-of-removed") == ()
