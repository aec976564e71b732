"""Killed writers, full disks and concurrent writers of the store, with real processes."""

from __future__ import annotations

import multiprocessing
import signal

import pytest

from searchlora.adapters.manifest import MANIFEST, ManifestDraft, parse_manifest
from searchlora.adapters.store import Store
from searchlora.adapters.stored import check_hashes
from tests.child_scripts import run_script

# A writer in a process of its own: store, folder to store, file with a manifest to take the draft from, what to do.
WRITER = """
import os, resource, signal, sys
from pathlib import Path
from searchlora.adapters import stored
from searchlora.adapters.manifest import parse_manifest
from searchlora.adapters.store import Store
from searchlora.errors import StoreError
from searchlora.files import atomic

root, folder, manifest, how = sys.argv[1:]
draft = parse_manifest(Path(manifest).read_text(), manifest).draft()
if how == "killed-in-copy":
    def copy_file(file, target):
        (target / file.name).write_bytes(file.read_bytes()[:100])
        os.kill(os.getpid(), signal.SIGKILL)
    stored.copy_file = copy_file
elif how == "killed-before-rename":
    atomic.sync = lambda path: os.kill(os.getpid(), signal.SIGKILL)
elif how == "full":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    print(Store(root).add("echo", Path(folder), draft).reference)
except StoreError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def write(store, folder, manifest, how):
    return run_script(WRITER, store.root, folder, manifest, how)


@pytest.mark.slow
def test_a_killed_writer_leaves_the_store_unchanged(store, stored, trained):
    for how in ("killed-in-copy", "killed-before-rename"):
        assert write(store, trained, stored.path / MANIFEST, how).returncode == -signal.SIGKILL
        assert store.versions("echo") == (1,)
        assert [entry.problem for entry in store.list()] == [None]
        check_hashes(store.get("echo"))
    assert write(store, trained, stored.path / MANIFEST, "").stdout == "echo@2\n"
    assert not list(store.root.rglob(".*.partial"))  # the next writer removes what a killed one left


@pytest.mark.slow
def test_a_full_disk_is_an_error_and_stores_nothing(store, stored, trained):
    done = write(store, trained, stored.path / MANIFEST, "full")
    assert done.returncode == 1
    assert "cannot be written" in done.stdout
    assert store.versions("echo") == (1,)
    assert not list(store.root.rglob(".*.partial"))


def _add(root, folder, manifest, start):
    draft: ManifestDraft = parse_manifest(manifest, "test").draft()
    start.wait(30)
    for _ in range(3):
        Store(root).add("echo", folder, draft)


@pytest.mark.slow
def test_concurrent_writers_get_separate_versions(store, stored, trained):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    manifest = stored.manifest.model_dump_json()
    writers = [context.Process(target=_add, args=(store.root, trained, manifest, start)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert store.versions("echo") == tuple(range(1, 8))
    for version in store.versions("echo"):
        check_hashes(store.get(f"echo@{version}"))
