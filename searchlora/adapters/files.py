"""Folders that appear whole or not at all, and the hashes of what is in them."""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from searchlora.errors import StoreError, TamperedAdapter
from searchlora.eval.files import file_sha256

TEMPORARY = ".tmp-"

#: Seconds after which a temporary folder belongs to a writer that was killed, not to one still at work.
ABANDONED_AFTER = 24 * 3600

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}


@contextmanager
def whole_folder(parent: Path) -> Iterator[Path]:
    """A new folder inside `parent` to be filled and then renamed by the caller; gone unless it was renamed.

    Raises:
        StoreError: when it cannot be written, for example because the disk is full. Nothing is left of it.
    """
    folder = parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True)
        yield folder
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"cannot be written ({reason(error)}); nothing was stored",
            where=str(parent),
            fix="Make room or give another folder, then try again.",
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def reason(error: Exception) -> str:
    """What went wrong, in the system's words where it has any; safetensors has an error of its own for a full disk."""
    return getattr(error, "strerror", None) or str(error)


def publish(folder: Path, target: Path) -> None:
    """Bring a filled folder to disk, file by file, then rename it to `target`, which must not exist."""
    for file in folder.rglob("*"):
        _sync(file)
    _sync(folder)
    folder.rename(target)
    _sync(target.parent)


def replace_text(file: Path, text: str) -> None:
    """Write a text file that a reader sees in its old or its new state, never in between.

    Raises:
        StoreError: when it cannot be written; the old state stays.
    """
    temporary = file.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        temporary.write_text(text, encoding="utf-8")
        _sync(temporary)
        temporary.replace(file)
        _sync(file.parent)
    except OSError as error:
        raise StoreError(f"cannot be written ({reason(error)})", where=str(file), fix="Make room.") from error
    finally:
        temporary.unlink(missing_ok=True)


def sweep(parent: Path) -> None:
    """Take away what killed writers left behind more than a day ago."""
    for leftover in parent.glob(f"{TEMPORARY}*"):
        try:
            if time.time() - leftover.stat().st_mtime > ABANDONED_AFTER:
                shutil.rmtree(leftover)
        except OSError:  # its writer, or another sweep, was faster
            continue


def copy_plain(source: Path, target: Path) -> None:
    """Copy the files of a flat folder. Raises `StoreError` as `copy_file` does."""
    if not source.is_dir():
        raise StoreError("is not a folder", where=str(source))
    for file in sorted(source.iterdir()):
        copy_file(file, target)


def copy_file(file: Path, target: Path) -> None:
    """Copy a file into a folder.

    Raises:
        StoreError: for a symbolic link, a folder, a pickle, or a name that could leave the folder.
    """
    check_file_name(file.name, str(file.parent))
    if file.is_symlink() or not file.is_file():
        raise StoreError(
            "is not a plain file (links and folders are not stored)",
            where=str(file),
            fix="Put copies of the files themselves into one folder.",
        )
    shutil.copyfile(file, target / file.name)


def make_read_only(folder: Path) -> None:
    """Take away the right to write the files, as a courtesy to those who would edit in place."""
    for file in folder.iterdir():
        file.chmod(0o444)


def check_file_name(name: str, where: str) -> str:
    """The name itself. Raises `StoreError` for one that is hidden, too long, a pickle's, or could leave its folder."""
    if Path(name).suffix in _PICKLES:
        raise StoreError(f"{name} is a pickle, which is never stored", where=where, fix="Save it as safetensors.")
    if not _FILE_NAME.fullmatch(name):
        raise StoreError(
            f"the file name {name!r} is not stored", where=where, fix="Use letters, digits, '.', '_', '-'."
        )
    return name


def hashes(folder: Path, skip: str) -> dict[str, str]:
    """sha256 of each file by name, without the file `skip`.

    Raises:
        TamperedAdapter: for anything in the folder that is not a plain file.
    """
    found = {}
    for file in sorted(folder.iterdir()):
        if file.is_symlink() or not file.is_file():
            raise TamperedAdapter("is a link or a folder, which no adapter holds", where=str(file))
        if file.name != skip:
            found[file.name] = file_sha256(file)
    return found


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
