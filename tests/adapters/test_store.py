"""Laws of a store, in a folder and in an object store."""

from __future__ import annotations

import json
import pickle
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from searchlora.adapters import object_store
from searchlora.adapters.manifest import MANIFEST, SCHEMA_VERSION, TRAINING_RUN
from searchlora.adapters.store import Store
from searchlora.errors import InvalidName, ManifestError, NameTaken, NotInStore, StoreError


@pytest.fixture(params=["folder", "object store"])
def store(request, tmp_path, monkeypatch):
    monkeypatch.setattr(object_store, "POLL_S", 0.0)
    return Store(tmp_path / "store" if request.param == "folder" else f"memory://laws/{uuid.uuid4().hex}")


def test_versions_increase_and_are_found_by_reference(store, trained, draft):
    first, second = store.add("echo", trained, draft), store.add("echo", trained, draft)
    assert (first.reference, second.reference) == ("echo@1", "echo@2")
    assert store.pin("echo") == "echo@2"
    assert store.get("echo@1").manifest == first.manifest
    assert [(entry.name, entry.version) for entry in store.list()] == [("echo", 1), ("echo", 2)]


def test_a_version_contains_peft_files_manifest_card_and_extra_files(store, trained, draft, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    stored = store.add("echo", trained, draft, extra_files=[tmp_path / "metrics.jsonl"])
    names = {"adapter_config.json", "adapter_model.safetensors", "README.md", "metrics.jsonl"}
    assert set(stored.manifest.files) == names
    assert {file.name for file in stored.path.iterdir()} == {*names, MANIFEST}
    assert all(file.stat().st_mode & 0o222 == 0 for file in stored.path.iterdir())
    card = (stored.path / "README.md").read_text()
    assert "# echo@1" in card and "| loss | 1.25 |" in card and str(tmp_path) not in card


@pytest.mark.parametrize("name", ["../x", "a/b", "", "Echo"])
def test_invalid_names_and_paths_are_refused(store, trained, draft, name):
    with pytest.raises(InvalidName):
        store.add(name, trained, draft)
    for call in (store.get, store.pin, store.remove, store.history):
        with pytest.raises(InvalidName):
            call(name)
    assert not store.root.exists()


def test_a_missing_reference_lists_the_existing_ones(store, stored):
    assert store.pin("echo") == stored.reference
    for reference, known in (("other", "echo"), ("echo@7", "1"), ("echo@production", "none")):
        with pytest.raises(NotInStore, match=known):
            store.get(reference)


def test_a_name_used_by_another_task_is_taken(store, stored, draft):
    with pytest.raises(NameTaken, match=r"'echo'.*'intent'"):
        store.add("echo", stored.path, draft.model_copy(update={"task": "intent"}))


def test_aliases_move_and_roll_back_and_keep_their_history(store, trained, draft):
    for _ in range(3):
        store.add("echo", trained, draft)
    for version in (1, 2, 3):
        store.alias("echo", "production", version, f"release {version}")
    assert store.pin("echo@production") == "echo@3"
    assert store.rollback("echo", "production").target == 2
    assert store.rollback("echo", "production").target == 1
    with pytest.raises(NotInStore, match="nothing to roll"):
        store.rollback("echo", "production")
    store.alias("echo", "production", 3)
    assert store.rollback("echo", "production").target == 1
    moves = [(move.source, move.target) for move in store.history("echo")]
    assert moves == [(None, 1), (1, 2), (2, 3), (3, 2), (2, 1), (1, 3), (3, 1)]
    assert store.list()[0].aliases == ("production",)
    with pytest.raises(NotInStore):
        store.alias("echo", "production", 9)
    with pytest.raises(InvalidName):
        store.alias("echo", "7", 1)


def test_a_rollback_goes_to_the_previous_existing_version(store, trained, draft):
    for _ in range(4):
        store.add("echo", trained, draft)
    for version in (1, 2, 2):
        store.alias("echo", "production", version)
    assert store.rollback("echo", "production").target == 1
    with pytest.raises(NotInStore, match="nothing to roll"):
        store.rollback("echo", "production")
    for version in (2, 3, 4):
        store.alias("echo", "production", version)
    store.remove("echo@3")
    assert store.rollback("echo", "production").target == 2
    assert store.rollback("echo", "production").target == 1


def test_a_rollback_after_the_version_in_between_was_removed(store, trained, draft):
    for version in (1, 2):
        store.add("echo", trained, draft)
        store.alias("echo", "production", version)
    store.remove("echo@2", force=True)
    store.alias("echo", "production", store.add("echo", trained, draft).manifest.version)
    assert store.pin("echo@production") == "echo@3"
    assert store.rollback("echo", "production").target == 1
    store.alias("echo", "production", 3)
    store.remove("echo@3", force=True)
    assert store.aliases("echo") == {}
    assert store.rollback("echo", "production").target == 1


def test_an_alias_of_a_missing_adapter_creates_no_folder(store, stored):
    with pytest.raises(NotInStore, match="'nosuch'"):
        store.rollback("nosuch", "production")
    with pytest.raises(NotInStore, match="'nosuch'"):
        store.alias("nosuch", "production", 1)
    with pytest.raises(NotInStore, match="'nosuch'"):
        store.remove("nosuch@1")
    with pytest.raises(InvalidName):
        store.rollback("../x", "production")
    assert [path.name for path in store.root.iterdir() if path.is_dir()] == [stored.manifest.name]


def test_removal_refuses_aliased_versions_and_never_reuses_a_number(store, trained, draft):
    store.add("echo", trained, draft)
    store.add("echo", trained, draft)
    store.alias("echo", "production", 2)
    with pytest.raises(StoreError, match="production"):
        store.remove("echo@2")
    assert store.remove("echo@2", force=True) == "echo@2"
    assert store.aliases("echo") == {}
    assert store.add("echo", trained, draft).reference == "echo@3"
    assert store.versions("echo") == (1, 3)
    assert not list(store.root.rglob(".*.partial"))


def test_links_folders_pickles_and_missing_files_are_not_stored(store, writable, draft):
    def spoil(make):
        extra = writable / "extra"
        make(extra)
        with pytest.raises(StoreError):
            store.add("echo", writable, draft)
        extra.rmdir() if extra.is_dir() else extra.unlink()

    spoil(lambda path: path.symlink_to("/etc/hostname"))
    spoil(lambda path: path.mkdir())
    (writable / "optimizer.pt").write_bytes(b"")
    with pytest.raises(StoreError, match="pickle"):
        store.add("echo", writable, draft)
    (writable / "optimizer.pt").unlink()
    (writable / "adapter_config.json").unlink()
    with pytest.raises(StoreError, match=r"adapter_config\.json"):
        store.add("echo", writable, draft)
    assert store.list() == [] and not list(store.root.rglob(".*.partial"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[:50], "is not JSON"),
        (lambda text: f"[{text}]", "is not a manifest"),
        (lambda text: json.dumps({**json.loads(text), "colour": "red"}), "colour"),
        (lambda text: json.dumps({**json.loads(text), "schema_version": SCHEMA_VERSION + 1, "new": 1}), "has manifest"),
        (lambda text: json.dumps({**json.loads(text), "schema_version": SCHEMA_VERSION - 1}), "has manifest schema 4"),
        (lambda text: json.dumps({**json.loads(text), "version": 5}), "echo@5"),
    ],
)
def test_an_unusable_manifest_is_an_error(store, stored, spoil, message):
    file = stored.path / MANIFEST
    file.chmod(0o644)
    file.write_text(spoil(file.read_text()))
    with pytest.raises(ManifestError, match=message):
        store.get("echo")


def test_what_a_killed_removal_left_goes_with_the_next_one(store, stored, trained):
    left = store.root / "echo" / ".removed-1"
    left.mkdir()
    store.add("echo", trained, stored.manifest.draft())
    assert [entry.problem for entry in store.list()] == [None, None]
    store.remove("echo@1")
    assert not left.exists()


def test_the_store_folder_comes_from_option_variable_or_default(monkeypatch, tmp_path):
    monkeypatch.setenv("SEARCHLORA_STORE", str(tmp_path / "elsewhere"))
    assert Store().root == tmp_path / "elsewhere"
    monkeypatch.delenv("SEARCHLORA_STORE")
    assert Store().root == Path("store")


def test_a_store_can_be_sent_to_another_process(store, stored):
    store.list()
    sent = pickle.loads(pickle.dumps(store))
    assert (sent.place, sent.get("echo").reference, len(sent.list())) == (store.place, stored.reference, 1)


def test_a_training_run_is_stored_once(store, trained, draft):
    run = draft.model_copy(update={"training": {TRAINING_RUN: "a1"}})
    first = store.add("echo", trained, run)
    assert store.add("echo", trained, run) == first
    assert store.add("echo", trained, draft).reference == "echo@2"
    assert store.add("echo", trained, run) == first
    with ThreadPoolExecutor(4) as pool:
        other = draft.model_copy(update={"training": {TRAINING_RUN: "b2"}})
        stored = {each.reference for each in pool.map(lambda _: store.add("echo", trained, other), range(4))}
    assert stored == {"echo@3"}
    assert store.versions("echo") == (1, 2, 3)
