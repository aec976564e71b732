"""Atomic writing of files and folders, durable on disk, and their sha256 hashes.

A file or a folder is written under a temporary name beside its target, synced, and renamed: a kill or a power cut
leaves the old state or the new one. The temporary name is locked while its writer lives, so the next writer of the
same target removes what killed writers left. A symbolic link stays, and the file that it names is replaced; a pipe or
a device is never replaced.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

from searchlora.errors import DataError
from searchlora.files.text import is_gzip

if sys.platform != "win32":  # Windows has no flock; leftovers stay there until someone removes them
    import fcntl

_SUFFIX = ".partial"
_NAME_CHARACTERS = 60  # of the target's name; a temporary name must not exceed what the file system allows


@contextmanager
def atomic_text(path: Path) -> Iterator[IO[str]]:
    """Open a UTF-8 text file for writing that replaces `path` once it is complete; gzip if the name ends in `.gz`.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_text(folder / "notes.txt") as out:
        ...     _ = out.write("written whole or not at all")
        >>> (folder / "notes.txt").read_text()
        'written whole or not at all'
    """
    with atomic_bytes(path) as raw, _text_writer(raw, path) as text:
        try:
            yield text
        except UnicodeEncodeError as error:
            raise DataError(
                f"{error.object[error.start : error.end]!r} cannot be written as UTF-8", where=str(path)
            ) from None


@contextmanager
def atomic_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file for writing that replaces `path` once it is complete and synced."""
    try:
        path = _replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, lock = _locked_temporary(path, partial(Path.touch, exist_ok=False))
    except OSError as error:
        raise _cannot_write(path, error) from None
    try:
        with temporary.open("wb") as raw:
            yield raw
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        _unlock(lock)


def check_new_folder(out: Path) -> None:
    """Raises `DataError` if `out` exists and is not an empty folder."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DataError("already exists", where=str(out), fix="Choose another folder for --out, or remove this one.")


@contextmanager
def atomic_folder(out: Path, *, replace: bool = False) -> Iterator[Path]:
    """Make a hidden folder beside `out` that becomes `out` at the end of the block; an error removes it."""
    if not replace:
        check_new_folder(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder, lock = _locked_temporary(out, partial(Path.mkdir, mode=0o700))
        try:
            yield folder
            folder.chmod(0o755)
            (_replace_folder if replace else publish_folder)(folder, out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            _unlock(lock)
    except OSError as error:
        raise _cannot_write(out, error) from None


def _replace_folder(folder: Path, target: Path) -> None:
    """Publish a folder; one that is there is moved aside before, and removed after. A kill between leaves none."""
    aside = target.with_name(f"{_prefix(target)}replaced")
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
    try:
        publish_folder(folder, target)
    except BaseException:
        if aside.exists():
            aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def publish_folder(folder: Path, target: Path) -> None:
    """Sync all files of a folder to disk and rename it to `target`, which must not exist or be an empty folder."""
    for file in folder.rglob("*"):
        sync(file)
    sync(folder)
    folder.replace(target)
    sync(target.parent)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise `DataError`, which says that `path` cannot be written, for an `OSError` of the block."""
    try:
        yield
    except OSError as error:
        raise _cannot_write(path, error) from None


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(*paths: Path | None) -> None:
    """Check before long work that its output files can be written; None stands for an output nobody requested.

    Nothing is created. A disk that fills up later is reported by the writer itself.
    """
    for path in paths:
        if path is not None and (reason := _why_not_writable(path)):
            raise DataError(f"cannot be written ({reason})", where=str(path))


def file_sha256(path: str | Path) -> str:
    """sha256 of the bytes of a file, 64 hexadecimal digits. Raises `DataError` if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from None


def tree_sha256(path: Path) -> str:
    """sha256 of a file, or of a folder over the names and hashes of all its files. Raises `DataError`."""
    if not path.is_dir():
        return file_sha256(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    listing = "\n".join(f"{file_sha256(file)} {file.relative_to(path)}" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def tree_size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _cannot_write(path: Path, error: OSError) -> DataError:
    fix = "Make room." if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
    return DataError(f"cannot be written ({error.strerror or error})", where=str(path), fix=fix)


def _why_not_writable(path: Path) -> str:
    try:
        if path.is_dir():
            return "it is a folder"
        path = _replaceable(path)
        folder = next(above for above in path.absolute().parents if above.exists())
    except OSError as error:
        return error.strerror or str(error)
    if not folder.is_dir():
        return f"{folder} is not a folder"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} is not writable"


def _replaceable(path: Path) -> Path:
    """The file that a path names, through symbolic links. Raises `OSError` if it is a pipe or a device."""
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "it is a pipe or a device")
    return path


def _prefix(target: Path) -> str:
    return f".{target.name[:_NAME_CHARACTERS]}."


def _locked_temporary(target: Path, make: Callable[[Path], None]) -> tuple[Path, int | None]:
    """A new temporary file or folder beside `target`, and its lock; leftovers of killed writers are removed."""
    if len(os.fsencode(target.name)) > 255:
        raise OSError(errno.ENAMETOOLONG, "File name too long")
    _remove_leftovers(target)
    while True:
        temporary = target.with_name(f"{_prefix(target)}{uuid.uuid4().hex}{_SUFFIX}")
        make(temporary)
        lock = _lock(temporary, wait=True)
        if temporary.exists():
            return temporary, lock
        _unlock(lock)  # another writer took it for a leftover before it was locked


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary files and folders of killed writers of `target`."""
    prefix = _prefix(target)
    with os.scandir(target.parent) as entries:
        leftovers = [Path(entry.path) for entry in entries if _is_temporary(entry.name, prefix)]
    for leftover in leftovers:
        lock = _lock(leftover)
        if lock is None:  # its writer is alive, or the platform cannot tell
            continue
        with suppress(OSError):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        _unlock(lock)


def _is_temporary(name: str, prefix: str) -> bool:
    middle = name.removeprefix(prefix).removesuffix(_SUFFIX)
    return len(middle) == 32 and name == f"{prefix}{middle}{_SUFFIX}"


def _lock(path: Path, *, wait: bool = False) -> int | None:
    """A descriptor that holds the lock of a temporary file or folder; None if another process holds it.

    It is also None where the platform or the file system has no locks.
    """
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


@contextmanager
def _text_writer(raw: IO[bytes], path: Path) -> Iterator[IO[str]]:
    if not is_gzip(path):
        with io.TextIOWrapper(raw, encoding="utf-8", newline="\n") as text:
            yield text
        return
    # The header holds neither a name nor a time: the same content gives the same bytes.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as text,
    ):
        yield text
