"""The compiled kernels are built once, in a cache that only the user can have written."""

from __future__ import annotations

import os
import shutil
import stat
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from searchlora.cpu import kernels as native
from searchlora.errors import UsageError

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on the path")


def test_no_kernels_without_a_compiler(monkeypatch):
    monkeypatch.setattr(native.shutil, "which", lambda _: None)
    assert native._load.__wrapped__(torch.float32) is None


def test_a_failing_compiler_leaves_no_files(monkeypatch, tmp_path):
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "_FLAGS", ("--no-such-option",))
    assert native._load.__wrapped__(torch.float32) is None
    assert not list((tmp_path / "native").iterdir())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A cache with freshly built kernels; tests change a copy of it."""
    folder = tmp_path_factory.mktemp("kernels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEARCHLORA_CACHE", str(folder))
        assert native._load.__wrapped__(torch.float32) is not None
    return folder / "native"


@pytest.fixture
def cache(built, monkeypatch, tmp_path):
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path))
    return shutil.copytree(built, tmp_path / "native")


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
def test_the_kernel_cache_is_private(built):
    (library,) = built.iterdir()
    assert [stat.S_IMODE(each.lstat().st_mode) for each in (built, library)] == [0o700, 0o700]
    assert native._load.__wrapped__(torch.float32) is not None  # it is used again


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "mode"),
    [*product(("file", "folder"), (0o770, 0o702, "another user's", "link")), ("file", "dangling link")],
)
def test_kernels_that_others_could_have_put_there_are_refused(cache, monkeypatch, tmp_path, mode, which):
    path, lstat = cache if which == "folder" else next(cache.iterdir()), Path.lstat

    def of_another(self):
        status = lstat(self)
        return SimpleNamespace(st_mode=status.st_mode, st_uid=status.st_uid + (self == path))

    says = "can be written by others"
    if isinstance(mode, int):
        path.chmod(mode)
    elif mode == "another user's":
        monkeypatch.setattr(Path, "lstat", of_another)
        says = "belongs to another user"
    else:
        path.rename(tmp_path / "moved")
        path.symlink_to(tmp_path / ("moved" if mode == "link" else "nothing"))
        says = "is a symbolic link"
    with pytest.raises(UsageError, match=f"{path.name}: {says}"):
        native._load.__wrapped__(torch.float32)


def test_a_file_that_replaces_the_checked_one_is_not_loaded(cache, monkeypatch):
    """As others can do where they may rename the folder of the cache."""
    (library,) = cache.iterdir()
    real, loaded = native.ctypes.CDLL, []

    def replaced(path):
        cache.rename(cache.with_name("renamed"))
        cache.mkdir()
        library.write_bytes(b"foreign code")
        loaded.append(real(path))
        return loaded[-1]

    monkeypatch.setattr(native.ctypes, "CDLL", replaced)
    assert native._load.__wrapped__(torch.float32) is not None
    assert len(loaded) == 1 and library.read_bytes() == b"foreign code"


def test_a_pipe_in_the_cache_is_refused(cache):
    (library,) = cache.iterdir()
    library.unlink()
    os.mkfifo(library, 0o600)
    with pytest.raises(UsageError, match=f"{library.name}: is neither a file nor a folder"):
        native._load.__wrapped__(torch.float32)


@pytest.mark.parametrize("value", [" ", "''", "\t", "gcc 'open"])
def test_a_compiler_variable_without_a_command_is_an_error(monkeypatch, value):
    monkeypatch.setenv("CC", value)
    with pytest.raises(UsageError, match=r"CC: (has no|is not a) command"):
        native._load.__wrapped__(torch.float32)
