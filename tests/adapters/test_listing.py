"""Listing: versions are read once, and again when anybody has changed their files."""

from __future__ import annotations

import shutil
import time

import pytest

from searchlora.adapters import listing
from searchlora.adapters.aliases import ALIASES
from searchlora.adapters.evaluations import EVALUATIONS
from searchlora.adapters.manifest import MANIFEST
from searchlora.adapters.store import Store
from tests.adapters.test_evaluations import record


@pytest.fixture
def fleet(store, trained, draft, monkeypatch):
    """Four versions, whose files count as settled at once."""
    monkeypatch.setattr(listing, "_SETTLED_NS", 0)
    for name in ("a", "b", "c"):
        store.add(name, trained, draft)
    store.add("a", trained, draft)
    store.alias("a", "production", 1)
    store.record_evaluation("a", record(1))
    time.sleep(0.05)
    return store


@pytest.fixture
def read(monkeypatch):
    """References of the manifests that are read."""
    read: list[str] = []
    original = listing.read_version

    def counted(root, version):
        read.append(str(version))
        return original(root, version)

    monkeypatch.setattr(listing, "read_version", counted)
    return read


def edited(path, change) -> None:
    """Change a file in place, as an editor does."""
    time.sleep(0.02)
    path.chmod(0o644)
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


def test_versions_are_read_once(fleet, read):
    wanted = fleet.list()
    assert [entry.reference for entry in wanted] == ["a@1", "a@2", "b@1", "c@1"] and len(read) == 4
    assert fleet.list() == wanted and len(read) == 4
    first = wanted[0]
    assert first.aliases == ("production",) and first.evaluation.value == record(1).value
    assert first.manifest == fleet.get("a@1").manifest
    assert first.summary.metrics == first.manifest.metrics and first.summary.base == first.manifest.base


CHANGES = {
    "an alias moves": lambda store: store.alias("a", "production", 2),
    "an alias is edited": lambda store: edited(
        store.root / "a" / ALIASES, lambda text: text.replace('"to": 1', '"to": 2')
    ),
    "aliases are removed": lambda store: (store.root / "a" / ALIASES).unlink(),
    "an evaluation is added": lambda store: store.record_evaluation("a", record(2)),
    "evaluations are removed": lambda store: (store.root / "a" / EVALUATIONS).unlink(),
    "a version is removed": lambda store: store.remove("a@2"),
    "a version is copied by hand": lambda store: shutil.copytree(store.root / "a" / "1", store.root / "a" / "7"),
    "a manifest is edited": lambda store: edited(
        store.root / "a" / "2" / MANIFEST, lambda text: text.replace('"loss": 1.25', '"loss": 1.75')
    ),
    "a manifest of the same size is put in place": lambda store: edited(
        store.root / "a" / "2" / MANIFEST, lambda text: text.replace('"loss": 1.25', '"loss": 1.35')
    ),
    "a manifest is removed": lambda store: (store.root / "a" / "2" / MANIFEST).unlink(),
    "a name is removed": lambda store: shutil.rmtree(store.root / "a"),
    "a stray folder appears": lambda store: (store.root / "a" / "latest").mkdir(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_by_anybody_is_listed(fleet, read, change):
    before = fleet.list()
    CHANGES[change](Store(fleet.root))
    read.clear()
    seen = fleet.list()
    assert not any(reference.startswith(("b", "c")) for reference in read)
    assert seen == Store(fleet.root).list() != before


def test_a_file_that_has_just_changed_is_read_again(fleet, read, monkeypatch):
    monkeypatch.setattr(listing, "_SETTLED_NS", 10**12)
    again = Store(fleet.root)
    again.list()
    again.list()
    assert len(read) == 8


def test_the_summary_of_a_version_does_not_read_the_others(fleet, read):
    assert Store(fleet.root).summary("a@production").task == "echo"
    assert read == ["a@1"]
