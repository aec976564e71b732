from __future__ import annotations

import filecmp
import io
import json
import os
import re
import shutil

import pytest
from fsspec.implementations.local import LocalFileSystem

from searchlora.adapters import transfer
from searchlora.adapters.manifest import MANIFEST, Dataset, write_manifest
from searchlora.adapters.peft_folder import WEIGHTS
from searchlora.adapters.remote_files import transport
from searchlora.adapters.store import Store
from searchlora.adapters.stored import check_hashes, file_hashes
from searchlora.adapters.transfer import pull
from searchlora.errors import (
    EngineError,
    GoldenMismatch,
    ManifestError,
    MissingKey,
    NameTaken,
    NotInStore,
    StoreError,
    TamperedAdapter,
    UsageError,
    ZeroDelta,
)
from searchlora.files import file_sha256
from tests.factories import edit_weights


def push(stored, url):
    return transfer.push(stored.reference, url, store=stored.path.parents[1])


def same_bytes(one, two):
    names = sorted(file.name for file in one.iterdir())
    return names == sorted(file.name for file in two.iterdir()) and not filecmp.cmpfiles(one, two, names, False)[1]


@pytest.mark.parametrize("place", ["{folder}/there", "file://{folder}/there", "memory://there/{folder}"])
def test_push_and_pull_preserve_every_byte(store, trained, draft, tmp_path, place):
    url = place.format(folder=tmp_path)
    named = {
        "base": draft.base.model_copy(update={"name": "some/base"}),
        "recipe": {**draft.recipe, "base": "some/base"},
    }
    stored = store.add("echo", trained, draft.model_copy(update=named))
    assert not push(stored, url).already
    assert push(stored, url).already
    other = Store(tmp_path / "other")
    pulled = pull(url, store=other)
    assert pulled.reference == "echo@1" and same_bytes(pulled.path, stored.path)
    assert pull(url, store=other).path == pulled.path


def test_pull_takes_only_the_version_with_the_hash_that_push_printed(stored, tmp_path):
    there, other = str(tmp_path / "there"), Store(tmp_path / "other")
    sha256 = push(stored, there).sha256
    assert push(stored, there).sha256 == sha256 == file_sha256(tmp_path / "there" / MANIFEST)
    with pytest.raises(TamperedAdapter, match=sha256):
        pull(there, sha256=sha256[::-1], store=other)
    assert other.list() == []
    assert pull(there, sha256=sha256, store=other).reference == "echo@1"


def test_pull_under_another_name_stores_a_version_with_a_parent(stored, store, tmp_path):
    push(stored, str(tmp_path / "there"))
    renamed = pull(str(tmp_path / "there"), name="copy", store=store)
    assert renamed.reference == "copy@1" and renamed.manifest.parents == ["echo@1"]
    assert renamed.manifest.created == stored.manifest.created
    check_hashes(renamed)
    assert "# copy@1" in (renamed.path / "README.md").read_text()


def test_push_never_overwrites_another_version_or_other_files(store, stored, draft, tmp_path):
    push(stored, str(tmp_path / "there"))
    second = store.add("echo", stored.path, draft)
    with pytest.raises(NameTaken, match="echo@1"):
        push(second, str(tmp_path / "there"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(NameTaken, match=r"thesis\.tex"):
        push(second, str(tmp_path / "full"))


def test_an_interrupted_push_can_be_repeated(stored, tmp_path):
    there = tmp_path / "there"
    push(stored, str(there))
    (there / MANIFEST).unlink()
    with pytest.raises(NotInStore):
        pull(str(there), store=Store(tmp_path / "other"))
    assert not push(stored, str(there)).already


def test_pull_refuses_files_that_contradict_the_manifest(stored, tmp_path):
    there, other = tmp_path / "there", Store(tmp_path / "other")
    push(stored, str(there))
    good = (there / WEIGHTS).read_bytes()
    (there / WEIGHTS).chmod(0o644)
    (there / WEIGHTS).write_bytes(good[:-1] + b"\0")
    with pytest.raises(TamperedAdapter, match=WEIGHTS):
        pull(str(there), store=other)
    (there / WEIGHTS).unlink()
    with pytest.raises(TamperedAdapter, match="is missing"):
        pull(str(there), store=other)
    manifest = (there / MANIFEST).read_text()
    (there / MANIFEST).chmod(0o644)
    (there / MANIFEST).write_text(manifest.replace('"README.md"', '"../README.md"'))
    with pytest.raises(StoreError, match=r"\.\./README\.md"):
        pull(str(there), store=other)
    (there / MANIFEST).write_text(manifest[:100])
    with pytest.raises(ManifestError):
        pull(str(there), store=other)
    assert other.list() == []


def spoilt_push(stored, there, change, **manifest):
    """Push, change the weights, and write the manifest that fits them, as a forger would."""
    push(stored, str(there))
    for file in there.iterdir():
        file.chmod(0o644)
    edit_weights(there, change)
    own = stored.manifest.model_copy(update={"files": file_hashes(there), **manifest})
    write_manifest(own, there)
    return str(there)


@pytest.fixture
def known(task, monkeypatch):
    monkeypatch.setattr("searchlora.task.load_task", lambda name, folder=None: task)  # noqa: ARG005


def test_pull_refuses_a_zero_delta(stored, tmp_path):
    url = spoilt_push(stored, tmp_path / "there", lambda found: {key: value * 0 for key, value in found.items()})
    other = Store(tmp_path / "other")
    with pytest.raises(ZeroDelta):
        pull(url, store=other)
    assert other.list() == []


@pytest.mark.slow
@pytest.mark.usefixtures("known")
def test_pull_runs_the_full_check_if_task_and_base_are_available(stored, base, tmp_path):
    url = spoilt_push(stored, tmp_path / "there", lambda found: dict(list(found.items())[2:]))
    other = Store(tmp_path / "other")
    with pytest.raises(MissingKey):
        pull(url, store=other)
    url = spoilt_push(stored, tmp_path / "off", lambda found: {key: value * 1.5 for key, value in found.items()})
    with pytest.raises(GoldenMismatch):
        pull(url, store=other)
    assert other.list() == []
    push(stored, str(tmp_path / "good"))
    pulled = pull(str(tmp_path / "good"), store=other, base=str(base.path))
    assert pulled.unverified is None and "verified in full" in str(pulled) and "NOT" not in str(pulled)


def test_pull_reports_checks_that_were_skipped(stored, tmp_path):
    push(stored, str(tmp_path / "there"))
    pulled = pull(str(tmp_path / "there"), store=Store(tmp_path / "other"))
    assert re.search(r"echo@1.*NOT verified.*no task 'echo'.*searchlora adapters verify echo@1", str(pulled))


@pytest.mark.usefixtures("known")
def test_pull_does_not_ask_the_hub_for_the_base(stored, base, tmp_path, monkeypatch):
    asked = []

    def snapshot(repo, **settings):
        asked.append((repo, settings["revision"], settings["local_files_only"]))
        raise FileNotFoundError(repo)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    there = tmp_path / "there"
    trained_on = stored.manifest.base.model_copy(update={"name": "some/base", "revision": "abc"})
    spoilt_push(stored, there, lambda found: found, base=trained_on)
    pulled = pull(str(there), store=Store(tmp_path / "other"))
    assert "'some/base' is not in the cache" in str(pulled.unverified)
    assert asked == [("some/base", "abc", True)]
    assert pull(str(there), store=Store(tmp_path / "third"), base=str(base.path)).unverified is None


def test_pull_does_not_replace_a_version(stored, draft, tmp_path):
    push(stored, str(tmp_path / "there"))
    other = Store(tmp_path / "other")
    other.add("echo", stored.path, draft.model_copy(update={"metrics": {"loss": 9.0}}))
    with pytest.raises(NameTaken, match="echo@1"):
        pull(str(tmp_path / "there"), store=other)
    shutil.rmtree(tmp_path / "there")


def test_an_unreachable_url_is_an_error(stored):
    with pytest.raises(UsageError, match="nowhere"):
        push(stored, "nowhere://x")


def test_push_sends_no_absolute_path(store, trained, draft, base, tmp_path):
    paths = {
        "training": {"log": f"{tmp_path}/run/log.txt", "windows": "C:\\Users\\me\\x.csv", "home": "~/data", "steps": 3},
        "dataset": Dataset(fingerprint="d" * 64, card={"source": [f"{tmp_path}/secret/rows.jsonl"]}),
    }
    stored = store.add("echo", trained, draft.model_copy(update=paths))
    assert str(base.path) in (stored.path / MANIFEST).read_text()
    assert not push(stored, str(tmp_path / "there")).already
    assert push(stored, str(tmp_path / "there")).already
    for file in (tmp_path / "there").iterdir():
        content = file.read_bytes()
        assert str(tmp_path).encode() not in content, file.name
        assert str(base.path.parent).encode() not in content
    pulled = pull(str(tmp_path / "there"), store=Store(tmp_path / "other"), base=str(base.path))
    manifest = pulled.manifest
    assert (manifest.base.name, manifest.recipe["base"]) == ("tiny", "tiny")
    assert manifest.training == {"log": "log.txt", "windows": "x.csv", "home": "data", "steps": 3}
    assert manifest.dataset is not None and manifest.dataset.card == {"source": ["rows.jsonl"]}
    assert manifest.model_dump(exclude={"base", "recipe", "training", "dataset"}) == stored.manifest.model_dump(
        exclude={"base", "recipe", "training", "dataset"}
    )
    own = pull(str(tmp_path / "there"), store=store, base=str(base.path))
    assert own.manifest == stored.manifest and store.versions("echo") == (1,)


def test_a_manifest_or_a_file_that_is_too_large_is_not_fetched(stored, tmp_path, monkeypatch):
    push(stored, str(tmp_path / "there"))
    monkeypatch.setattr("searchlora.adapters.stored.MAX_WEIGHT_BYTES", 100)
    with pytest.raises(TamperedAdapter, match="more than 100"):
        pull(str(tmp_path / "there"), store=Store(tmp_path / "other"))
    monkeypatch.setattr("searchlora.adapters.remote_files.MAX_BYTES", 100)
    with pytest.raises(ManifestError, match="more than 100 bytes"):
        pull(str(tmp_path / "there"), store=Store(tmp_path / "other"))


@pytest.mark.parametrize("name", ["weights.PT", "a.pkl", "../a", "a/b", ".hidden"])
def test_a_pickle_or_a_path_in_a_manifest_is_not_fetched(stored, tmp_path, name):
    there = tmp_path / "there"
    push(stored, str(there))
    values = json.loads((there / MANIFEST).read_text())
    values["files"][name] = "a" * 64
    (there / MANIFEST).chmod(0o644)
    (there / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(StoreError):
        pull(str(there), store=Store(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_pipes_and_devices_are_not_fetched(stored, tmp_path):
    there = tmp_path / "there"
    push(stored, str(there))
    for make in (os.mkfifo, lambda file: file.symlink_to("/dev/zero"), lambda file: file.mkdir()):
        (there / "README.md").unlink()
        make(there / "README.md")
        with pytest.raises(TamperedAdapter, match="not a regular file"):
            pull(str(there), store=Store(tmp_path / "other"))
        (there / "README.md").rmdir() if (there / "README.md").is_dir() else None
        (there / "README.md").unlink(missing_ok=True)
        shutil.copy(stored.path / "README.md", there)
    (there / MANIFEST).unlink()
    os.mkfifo(there / MANIFEST)
    with pytest.raises(NotInStore):
        pull(str(there), store=Store(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_what_a_server_sends_beyond_the_size_that_it_says_is_not_stored(stored, tmp_path, monkeypatch):
    there = tmp_path / "there"
    push(stored, str(there))
    monkeypatch.setattr("searchlora.adapters.remote_files.MAX_OTHER_BYTES", 5000)
    info = LocalFileSystem.info
    monkeypatch.setattr(LocalFileSystem, "info", lambda self, path, **more: info(self, path, **more) | {"size": None})
    (there / "README.md").chmod(0o644)
    (there / "README.md").write_bytes(b"x" * 5001)
    with pytest.raises(TamperedAdapter, match=r"README\.md: has more than"):
        pull(str(there), store=Store(tmp_path / "other"))


def test_the_manifest_that_is_stored_is_the_one_that_was_checked(stored, tmp_path, monkeypatch):
    there, read = tmp_path / "there", []
    push(stored, str(there))
    opened = LocalFileSystem.open

    def changes_afterwards(self, path, *arguments, **more):
        stream = opened(self, path, *arguments, **more)
        if path.endswith(MANIFEST):
            read.append(path)
            values = json.loads((there / MANIFEST).read_text())
            content = (there / MANIFEST).read_bytes()
            (there / MANIFEST).unlink()
            (there / MANIFEST).write_text(json.dumps({**values, "metrics": {"loss": 0.0}}))
            return io.BytesIO(content)
        return stream

    monkeypatch.setattr(LocalFileSystem, "open", changes_afterwards)
    pulled = pull(str(there), store=Store(tmp_path / "other"))
    kept = Store(tmp_path / "other").get(pulled.reference).manifest
    assert read and kept == pulled.manifest and kept.metrics == stored.manifest.metrics


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://127.0.0.1:1/x", "data:,abc", "zip://a::file://b", "simplecache::s3://b", "x://y", "S3://b", "://x"),
    ],
)
def test_a_scheme_without_transport_is_a_usage_error_that_lists_the_others(url, tmp_path):
    with pytest.raises(UsageError, match=r"of the scheme .* cannot be used here.* s3://, .*hf://") as refused:
        pull(url, store=Store(tmp_path / "store"))
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("url", ["http://[", "https://:80", "http://me:pw@h/x"])
def test_a_malformed_address_is_not_pulled(url, tmp_path):
    with pytest.raises(EngineError):
        pull(url, store=Store(tmp_path / "store"))


@pytest.mark.parametrize("url", ["a\0b", "file:///\udfff", "hf://["])
def test_a_url_that_no_transport_reads_is_refused(url, tmp_path):
    with pytest.raises((UsageError, StoreError)):
        pull(url, store=Store(tmp_path / "store"))


def test_an_error_of_a_transport_of_its_own_class_is_a_store_error(tmp_path, monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    class NoCredentials(Exception):
        """As botocore's, which is no `OSError`."""

    def info(*_, **__):
        raise NoCredentials("Unable to locate credentials")

    monkeypatch.setattr(MemoryFileSystem, "info", info)
    with pytest.raises(StoreError, match=r"cannot be read .*credentials"):
        pull("memory://bucket/x", store=Store(tmp_path / "store"))


def test_an_error_of_our_own_code_is_not_blamed_on_the_url():
    with pytest.raises(AttributeError), transport("s3://bucket/a", "read"):
        None.absent  # noqa: B018
