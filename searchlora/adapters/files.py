"""Atomic writes: folders and files that become visible complete or not at all."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from searchlora.errors import StoreError

TEMPORARY = ".tmp-"

#: Seconds after which a temporary folder belongs to a writer that was killed, not to one still at work.
ABANDONED_AFTER = 24 * 3600


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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
