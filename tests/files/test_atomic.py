"""Atomic writing of files and folders, syncing, and checks before writing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from searchlora.errors import DataError
from searchlora.files import atomic, atomic_folder, atomic_text, check_writable


def test_the_write_check_passes_without_creating_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old = tmp_path / "old.txt"
    old.write_text("old")
    check_writable(None, old, tmp_path / "new" / "deep" / "file.txt", type(tmp_path)("beside.txt"))
    assert list(tmp_path.iterdir()) == [old] and old.read_text() == "old"


@pytest.mark.parametrize("name", ["", "file/below", "file/much/below", "x" * 300])
def test_the_write_check_refuses_unwritable_paths(tmp_path, name):
    (tmp_path / "file").write_text("")
    target = tmp_path / name
    with pytest.raises(DataError) as reported:
        check_writable(target)
    assert reported.value.where == str(target) and reported.value.what.startswith("cannot be written (")
    with pytest.raises(DataError), atomic_text(target) as out:
        out.write("x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="is not writable"):
        check_writable(tmp_path / "new.txt")
    tmp_path.chmod(0o700)


def test_files_and_folders_are_synced_before_and_after_the_rename(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        "os.fsync", lambda descriptor: synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
    )
    with atomic_text(tmp_path / "a.txt") as out:
        out.write("x")
    assert [path.split(".")[-1] for path in synced[:1]] == ["partial"]
    assert synced[1:] == [str(tmp_path)]
    synced.clear()
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "b.txt").write_text("y")
    assert {path.split(".partial")[-1] for path in synced[:-1]} == {"/inner", "/inner/b.txt", ""}
    assert synced[-1] == str(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from searchlora.files import atomic_folder, atomic_text
out = Path(sys.argv[1])
with atomic_folder(out) as folder, atomic_text(out.with_name("list.txt")) as text:
    (folder / "half.txt").write_text("half")
    text.write("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_files_of_killed_writers_are_removed_and_those_of_running_ones_kept(tmp_path):
    out = tmp_path / "out"
    subprocess.run([sys.executable, "-c", KILLED, str(out)], check=False)
    left = sorted(tmp_path.iterdir())
    assert [path.name.split(".")[1] for path in left] == ["list", "out"]
    (tmp_path / ".out.mine").write_text("no temporary file")
    with atomic_folder(out) as folder, atomic_text(tmp_path / "list.txt"):
        assert not any(path.exists() for path in left)
        with pytest.raises(RuntimeError), atomic_folder(out) as other:
            assert folder.exists() and other.exists()
            raise RuntimeError
        assert folder.exists() and not other.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.mine", "list.txt", "out"]


def test_a_full_disk_is_an_error_and_keeps_the_old_file(tmp_path):
    script = f"""
import resource
from pathlib import Path
from searchlora.errors import DataError
from searchlora.files import atomic_folder, atomic_text
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for name, make in (("file", atomic_text), ("folder", atomic_folder)):
    try:
        with make(Path({str(tmp_path)!r}) / name) as out:
            (out if name == "file" else (out / "rows").open("w")).write("x" * 100_000)
    except DataError as error:
        print(error)
"""
    (tmp_path / "file").write_text("old")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.count("cannot be written (File too large)") == 2
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_a_name_as_long_as_the_system_allows_can_be_written(tmp_path):
    target = tmp_path / ("x" * 255)
    with atomic_text(target) as out:
        out.write("x")
    assert target.read_text() == "x"


@pytest.mark.parametrize("write", [atomic_text, atomic_folder])
def test_a_writer_whose_temporary_another_one_removes_before_it_is_locked_goes_on(tmp_path, monkeypatch, write):
    target, lock = tmp_path / "target", atomic._lock
    removed = []

    def removes_first(path, **more):
        if not removed and path.name.startswith(".target."):
            removed.append(path)
            atomic._remove_leftovers(target)  # as another writer of the target does
            assert not path.exists()
        return lock(path, **more)

    monkeypatch.setattr(atomic, "_lock", removes_first)
    with write(target) as out:
        (out / "a.txt").write_text("x") if write is atomic_folder else out.write("x")
    assert (target / "a.txt" if write is atomic_folder else target).read_text() == "x"
    assert list(tmp_path.iterdir()) == [target] and removed


@pytest.mark.parametrize(("number", "fix"), [(errno.ENOSPC, "Make room."), (errno.EACCES, None)])
def test_only_a_full_disk_is_told_to_make_room(tmp_path, monkeypatch, number, fix):
    def fails(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(DataError) as reported, atomic_text(tmp_path / "a.txt") as out:
        out.write("x")
    assert reported.value.fix == fix
