from __future__ import annotations

import pytest

from searchlora import adapters
from searchlora.errors import NotInStore


def test_operations_accept_a_store_or_its_folder(stored, store, tmp_path):
    assert [entry.name for entry in adapters.list(store.root)] == ["echo"]
    assert adapters.show("echo", store.root) == stored.manifest
    assert "production -> version 1" in str(adapters.alias("echo", "production", reason="good", store=store))
    with pytest.raises(NotInStore):
        adapters.rollback("echo", "production", store=store)
    assert str(adapters.push("echo@production", str(tmp_path / "there"), store=store)).startswith("echo@1 is now at")
    assert adapters.pull(str(tmp_path / "there"), name="copy", store=store).reference == "copy@1"
    assert adapters.remove("copy@1", store=str(store.root)) == "copy@1"


def test_diff_lists_changed_fields(stored, store, draft):
    store.add("echo", stored.path, draft)
    assert adapters.diff("echo@1", "echo@2", store=store).fields == {}
    recipe = {**draft.recipe, "seed": 14}
    more = {"settings": {"labels": ["a"]}, "tuned": {"temperature": 2.0}}
    other = draft.model_copy(update={"recipe": recipe, "metrics": {"loss": 1.0}, **more})
    store.add("echo", stored.path, other)
    found = adapters.diff("echo@1", "echo@3", store=store)
    assert found.fields == {
        "recipe.seed": (13, 14),
        "metrics.loss": (1.25, 1.0),
        "settings.labels": (None, ["a"]),
        "tuned.temperature": (None, 2.0),
    }
