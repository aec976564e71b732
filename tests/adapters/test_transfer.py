from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

import pytest

from searchlora.adapters.manifest import MANIFEST, ManifestDraft
from searchlora.adapters.peft_folder import WEIGHTS
from searchlora.adapters.store import Store, StoredAdapter
from searchlora.adapters.stored import check_hashes
from searchlora.adapters.transfer import pull, push
from searchlora.errors import ManifestError, NameTaken, NotInStore, StoreError, TamperedAdapter, UsageError


def same_bytes(one: Path, two: Path) -> bool:
    names = sorted(file.name for file in one.iterdir())
    return names == sorted(file.name for file in two.iterdir()) and not filecmp.cmpfiles(one, two, names, False)[1]


@pytest.mark.parametrize("place", ["{folder}/there", "file://{folder}/there", "memory://there/{folder}"])
def test_there_and_back_is_the_same_bytes(stored: StoredAdapter, tmp_path: Path, place: str) -> None:
    url = place.format(folder=tmp_path)
    assert not push(stored, url).already
    assert push(stored, url).already
    other = Store(tmp_path / "other")
    pulled = pull(url, other)
    assert pulled.reference == "echo@1" and same_bytes(pulled.path, stored.path)
    assert pull(url, other).path == pulled.path


def test_under_another_name_it_is_a_new_version_with_a_parent(
    stored: StoredAdapter, store: Store, tmp_path: Path
) -> None:
    push(stored, str(tmp_path / "there"))
    renamed = pull(str(tmp_path / "there"), store, "copy")
    assert renamed.reference == "copy@1" and renamed.manifest.parents == ["echo@1"]
    assert renamed.manifest.created == stored.manifest.created
    check_hashes(renamed)
    assert "# copy@1" in (renamed.path / "README.md").read_text()


def test_nothing_is_pushed_over_another_version_or_other_files(
    store: Store, stored: StoredAdapter, draft: ManifestDraft, tmp_path: Path
) -> None:
    push(stored, str(tmp_path / "there"))
    second = store.add("echo", stored.path, draft)
    with pytest.raises(NameTaken, match="echo@1"):
        push(second, str(tmp_path / "there"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(NameTaken, match=r"thesis\.tex"):
        push(second, str(tmp_path / "full"))


def test_a_push_that_broke_off_can_be_repeated(stored: StoredAdapter, tmp_path: Path) -> None:
    there = tmp_path / "there"
    push(stored, str(there))
    (there / MANIFEST).unlink()
    with pytest.raises(NotInStore):
        pull(str(there), Store(tmp_path / "other"))
    assert not push(stored, str(there)).already


def test_pull_refuses_what_is_not_what_its_manifest_says(stored: StoredAdapter, tmp_path: Path) -> None:
    there, other = tmp_path / "there", Store(tmp_path / "other")
    push(stored, str(there))
    good = (there / WEIGHTS).read_bytes()
    (there / WEIGHTS).chmod(0o644)
    (there / WEIGHTS).write_bytes(good[:-1] + b"\0")
    with pytest.raises(TamperedAdapter, match=WEIGHTS):
        pull(str(there), other)
    (there / WEIGHTS).unlink()
    with pytest.raises(TamperedAdapter, match="is missing"):
        pull(str(there), other)
    manifest = (there / MANIFEST).read_text()
    (there / MANIFEST).chmod(0o644)
    (there / MANIFEST).write_text(manifest.replace('"README.md"', '"../README.md"'))
    with pytest.raises(StoreError, match=r"\.\./README\.md"):
        pull(str(there), other)
    (there / MANIFEST).write_text(manifest[:100])
    with pytest.raises(ManifestError):
        pull(str(there), other)
    assert other.list() == []


def test_pull_does_not_replace_a_version(stored: StoredAdapter, draft: ManifestDraft, tmp_path: Path) -> None:
    push(stored, str(tmp_path / "there"))
    other = Store(tmp_path / "other")
    other.add("echo", stored.path, draft.model_copy(update={"metrics": {"loss": 9.0}}))
    with pytest.raises(NameTaken, match="echo@1"):
        pull(str(tmp_path / "there"), other)
    shutil.rmtree(tmp_path / "there")


def test_a_place_that_cannot_be_reached(stored: StoredAdapter) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        push(stored, "nowhere://x")
