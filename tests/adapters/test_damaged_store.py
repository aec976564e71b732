"""Stores with damaged, forged or odd entries: each is listed with its problem, and intact entries stay usable."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from searchlora.adapters.aliases import ALIASES
from searchlora.adapters.ancestry import ancestors, training_queries, write_training_queries
from searchlora.adapters.manifest import MANIFEST
from searchlora.adapters.peft_folder import WEIGHTS
from searchlora.adapters.references import MAX_VERSION
from searchlora.adapters.store import Store
from searchlora.adapters.stored import check_hashes
from searchlora.errors import InvalidName, LoadCheckFailed, ManifestError, NotInStore, StoreError, TamperedAdapter
from tests.factories import edit_json, edit_weights


@pytest.fixture
def three(store, trained, draft):
    """good@1, echo@1, echo@2."""
    store.add("good", trained, draft)
    for _ in range(2):
        store.add("echo", trained, draft)
    return store


def overwrite(file, text):
    if file.exists():
        file.chmod(0o644)
    file.write_text(text, encoding="utf-8")


def make_folder(name):
    return lambda store: shutil.copytree(store.root / "echo" / "1", store.root / name)


def change_manifest(store, **changed):
    edit_json(store.root / "echo" / "2" / MANIFEST, lambda values: values.update(changed))


def make_sparse(file, size):
    file.unlink(missing_ok=True)
    with file.open("wb") as out:
        out.truncate(size)


DAMAGE: dict[str, Callable[[Store], object]] = {
    "manifest-cut": lambda store: overwrite(store.root / "echo" / "2" / MANIFEST, "{"),
    "manifest-of-another": lambda store: shutil.copytree(store.root / "echo" / "1", store.root / "echo" / "3"),
    "manifest-huge": lambda store: make_sparse(store.root / "echo" / "2" / MANIFEST, 1 << 40),
    "manifest-forged-key": lambda store: change_manifest(store, **{"x\x1b[31mred\nERROR forged": 1}),
    "manifest-missing": lambda store: (store.root / "echo" / "5").mkdir(),
    "aliases-forged": lambda store: overwrite(
        store.root / "echo" / ALIASES, '[{"alias": "x\\u001b[31mred", "time": "t", "from": null, "to": 1}]'
    ),
    "aliases-version": lambda store: overwrite(
        store.root / "echo" / ALIASES, '[{"alias": "production", "time": "t", "from": null, "to": 1000000000}]'
    ),
    "version-too-large": make_folder("echo/1000000000"),
    "version-padded": make_folder("echo/007"),
    "name-upper": make_folder("Echo/1"),
    "name-escape": make_folder("x\x1b[31mred/1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_listed_with_its_problem_beside_intact_entries(three, cli, damage):
    before = {entry.reference for entry in three.list()}
    DAMAGE[damage](three)
    entries = three.list()
    assert [entry for entry in entries if entry.problem]
    assert {"good@1", "echo@1"} <= {entry.reference for entry in entries if entry.manifest is not None} <= before
    assert three.get("good").reference == "good@1"
    assert three.get("echo@1").reference == "echo@1"
    for options in ((), ("--json",)):
        listed = cli("adapters", "list", "--store", three.root, *options)
        assert listed.code == 0, listed.err
        assert "good@1" in listed.out and "echo@1" in listed.out
        assert "\x1b[31mred" not in listed.out
        assert not any(line.startswith("ERROR forged") for line in listed.out.splitlines())


@pytest.mark.parametrize("damage", [name for name in DAMAGE if not name.startswith("name")])
def test_a_damaged_name_accepts_new_versions(three, trained, draft, damage):
    DAMAGE[damage](three)
    stored = three.add("echo", trained, draft)
    assert 3 <= stored.manifest.version <= 6
    assert three.get(stored.reference).manifest == stored.manifest


@pytest.mark.parametrize(
    ("damage", "reference"),
    [
        ("manifest-cut", "echo@2"),
        ("manifest-of-another", "echo@3"),
        ("manifest-missing", "echo@5"),
    ],
)
def test_a_bad_version_can_be_removed(three, cli, damage, reference):
    DAMAGE[damage](three)
    removed = cli("adapters", "remove", reference, "--store", three.root)
    assert removed.code == 0, removed.err
    assert not (three.root / reference.replace("@", "/")).exists()
    assert all(entry.problem is None for entry in three.list())
    assert not list(three.root.rglob(".*.partial"))


def test_a_version_is_removed_by_force_although_the_aliases_are_damaged(three):
    overwrite(three.root / "echo" / ALIASES, "[")
    with pytest.raises(StoreError, match=r"aliases\.json"):
        three.remove("echo@2")
    assert three.remove("echo@2", force=True) == "echo@2"
    assert three.versions("echo") == (1,)


@pytest.mark.parametrize("reference", ["echo@../good/1", "../store/good@1", "echo@1/../2", "echo@.lock", "echo@", "@1"])
def test_remove_refuses_anything_but_a_version(three, reference):
    with pytest.raises((InvalidName, NotInStore)):
        three.remove(reference, force=True)
    assert len(three.list()) == 3


def test_a_link_is_neither_a_name_nor_a_version(three, tmp_path):
    outside = Path(shutil.copytree(three.root / "echo" / "1", tmp_path / "outside" / "7")).parent
    (three.root / "linked").symlink_to(outside)
    (three.root / "echo" / "7").symlink_to(outside / "7")
    assert three.names() == ("echo", "good")
    assert three.versions("echo") == (1, 2)


def test_the_highest_version_number_cannot_be_exceeded(store, trained, draft):
    stored = store.add("echo", trained, draft)
    last = stored.manifest.model_copy(update={"version": MAX_VERSION})
    assert store.adopt(stored.path, last).reference == f"echo@{MAX_VERSION}"
    with pytest.raises(StoreError, match="no free version number"):
        store.add("echo", trained, draft)


# Aliases


def test_a_rollback_checks_its_target_before_the_alias_moves(three, monkeypatch):
    for version in (1, 2):
        three.alias("echo", "production", version)
    first = three.get("echo@1")
    locked: list[str] = []
    original = Store._locked
    monkeypatch.setattr(Store, "_locked", lambda self, name: locked.append(name) or original(self, name))
    (first.path / "extra.txt").write_text("x")
    with pytest.raises(TamperedAdapter, match="extra"):
        three.rollback("echo", "production")
    (first.path / "extra.txt").unlink()
    edit_weights(first.path, lambda tensors: {name: value * 0 for name, value in tensors.items()})
    with pytest.raises(LoadCheckFailed):
        three.rollback("echo", "production")
    overwrite(first.path / MANIFEST, "{")
    with pytest.raises(ManifestError):
        three.rollback("echo", "production")
    assert locked == []
    assert three.pin("echo@production") == "echo@2"


def test_a_rollback_is_refused_if_the_alias_moved_meanwhile(three, monkeypatch):
    for version in (1, 2):
        three.alias("echo", "production", version)
    monkeypatch.setattr(
        "searchlora.adapters.full_model.check_delta", lambda _: Store(three.root).alias("echo", "canary", 1)
    )
    with pytest.raises(StoreError, match="changed while version 1 was checked"):
        three.rollback("echo", "production")
    assert three.pin("echo@production") == "echo@2"


# Ancestry


@pytest.mark.slow
@pytest.mark.parametrize("length", [2, 3000])
def test_cycles_in_the_ancestry_terminate(store, stored, draft, length):
    """Parents are checked when a manifest is read, but they are only names: anybody can write a cycle."""
    text = json.loads((stored.path / MANIFEST).read_text())
    text["golden"] = {}
    for number in range(1, length + 1):
        folder = store.root / "ring" / str(number)
        folder.mkdir(parents=True)
        parent = f"ring@{number % length + 1}"
        (folder / MANIFEST).write_text(json.dumps({**text, "name": "ring", "version": number, "parents": [parent]}))
    assert len(ancestors(store, "ring@1")) == length - 1
    assert training_queries(store, "ring@1") == ()
    write_training_queries(store.root / "ring" / str(length), ["red shoes"])
    assert len(training_queries(store, "ring@1") or ()) == 1
    del draft


def test_a_base_path_with_an_unknown_home_folder_has_no_ancestors(store, trained, draft):
    base = draft.base.model_copy(update={"name": "~nobody-at-all/base"})
    store.add("echo", trained, draft.model_copy(update={"base": base}))
    assert ancestors(store, "echo") == ()


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_text("[NaN]"),
        lambda file: file.write_text(f"[{10**400}]"),
        lambda file: make_sparse(file, 1 << 40),
    ],
    ids=["nan", "large", "huge"],
)
def test_numbers_of_removed_versions_are_never_forgotten(three, trained, draft, damage):
    damage(three.root / "echo" / "removed.json")
    with pytest.raises(StoreError, match=r"removed\.json: is not a list of version numbers"):
        three.add("echo", trained, draft)


def test_files_that_take_minutes_to_hash_are_refused_before(three):
    folder = three.root / "echo" / "1"
    make_sparse(folder / "README.md", 100 << 30)
    with pytest.raises(TamperedAdapter, match="more than 1,073,741,824"):
        check_hashes(three.get("echo@1"))
    (folder / "README.md").unlink()
    make_sparse(folder / WEIGHTS, 9 << 30)
    with pytest.raises(TamperedAdapter, match="more than 8,589,934,592"):
        check_hashes(three.get("echo@1"))


def test_a_move_is_one_line_whatever_its_reason_is(three, cli):
    three.alias("echo", "production", 1, reason="better\n\x1b[31mERROR forged\r\u2028x")
    shown = cli("adapters", "show", "echo@1", "--store", three.root)
    assert "better" in shown.out
    assert not any(line.startswith(("ERROR", "\x1b")) for line in shown.out.splitlines())
    assert len(str(three.history("echo")[0]).splitlines()) == 1
