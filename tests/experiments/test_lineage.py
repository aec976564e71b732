"""Which records of another dataset a candidate was trained on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from searchlora.adapters.ancestry import write_training_queries
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.store import Store
from searchlora.experiments.lineage import seen_in_training
from searchlora.task import load_prompted_task
from tests.made import made_folder

pytestmark = pytest.mark.slow

OTHER = SimpleNamespace(fingerprint="another dataset")


def pair(number, query):
    return {"id": f"p{number}", "query": query, "passage": f"passage {number}", "title": ""}


@pytest.fixture(scope="module")
def seen(tmp_path_factory, tiny_base):
    """The ids that an adapter has seen which was trained on the queries `tent` and `stove`."""
    root = tmp_path_factory.mktemp("lineage")

    def found(task_name, records):
        task, store, folder = load_prompted_task(task_name), Store(root / "store"), root / task_name
        if not folder.is_dir():
            _, recipe = made_folder(tiny_base, folder, seed=1)
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
