from __future__ import annotations

import pytest

from searchlora import adapters
from searchlora.adapters import operations
from searchlora.errors import BaseMismatch, GoldenMismatch, NotInStore, UsageError
from tests.factories import PROMPT, copy_of, echo_task, trained_adapter_folder


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


@pytest.mark.slow
def test_merge_stores_a_new_version_with_its_parents(store, base, draft, task, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("searchlora.task.load_task", lambda name, folder=None: task)  # noqa: ARG005
    store.add("echo", trained, draft)
    store.add("echo", trained_adapter_folder(base, tmp_path / "other", seed=3), draft)
    merged = adapters.merge(["echo@1", "echo@2"], "both", weights=[0.5, 0.5], store=store)
    assert merged.manifest.parents == ["echo@1", "echo@2"]
    assert merged.manifest.recipe["lora"]["r"] == 8
    operations.verify("both", store=store)
    operations.verify("both", base=str(copy_of(base, tmp_path / "moved").path), store=store)


def test_merge_refuses_adapters_of_an_earlier_prompt(stored, store, tmp_path, monkeypatch):
    """The golden records of the new version are rendered anew, so it would pass the check that its parents fail."""
    changed = echo_task(tmp_path / "changed", prompt=PROMPT.replace("Echo", "Repeat"))
    monkeypatch.setattr("searchlora.task.load_task", lambda name, folder=None: changed)  # noqa: ARG005
    with pytest.raises(GoldenMismatch, match="echo@1"):
        adapters.merge([stored.reference, stored.reference], "both", store=store)


def test_merge_refuses_incompatible_adapters(stored, store, draft, other_base):
    from searchlora.models.fingerprint import fingerprint

    for references, weights, message in ((["echo"], None, "1 adapters"), (["echo", "echo"], [1.0], "1 weights")):
        with pytest.raises(UsageError, match=message):
            adapters.merge(references, "both", weights=weights, store=store)
    elsewhere = draft.base.model_copy(update={"fingerprint": fingerprint(other_base.path)})
    store.add("far", stored.path, draft.model_copy(update={"base": elsewhere}))
    with pytest.raises(BaseMismatch, match="far@1"):
        adapters.merge(["echo", "far"], "both", store=store)
    for name, changed, message in (
        ("later", {"recipe": {**draft.recipe, "prompt": {"date": "2025-01-31"}}}, "options of the chat template"),
        ("other", {"prompt_hash": "0" * 64}, "another prompt template"),
        ("asker", {"recipe": {**draft.recipe, "sides": "query"}}, "another value of `sides`"),
    ):
        store.add(name, stored.path, draft.model_copy(update=changed))
        with pytest.raises(UsageError, match=f"{name}@1: was trained with .*{message}.* than echo@1"):
            adapters.merge(["echo", name], "both", store=store)
