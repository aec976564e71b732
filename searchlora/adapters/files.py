"""Atomic writes: folders and files that become visible complete or not at all."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from searchlora.errors import StoreError
from searchlora.files.atomic import sync

TEMPORARY = ".tmp-"

#: Age in seconds from which a temporary folder is treated as left by a killed writer.
ABANDONED_AFTER = 24 * 3600


@contextmanager
def whole_folder(parent: Path) -> Iterator[Path]:
    """A temporary folder inside `parent`, to be filled and renamed by the caller; removed unless it was renamed.

    Raises:
        StoreError: if it cannot be written, for example because the disk is full.
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
    """The system's message of an error; safetensors raises its own error for a full disk."""
    return getattr(error, "strerror", None) or str(error)


def publish(folder: Path, target: Path) -> None:
    """Sync a folder to disk, rename it to `target`, which must not exist, and sync the folders above it."""
    for file in folder.rglob("*"):
        sync(file)
    sync(folder)
    folder.rename(target)
    sync(target.parent)
    sync(target.parent.parent)  # the name's folder may be new


def replace_text(file: Path, text: str) -> None:
    """Replace a text file atomically.

    Raises:
        StoreError: if it cannot be written; the old content stays.
    """
    temporary = file.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        temporary.write_text(text, encoding="utf-8")
        sync(temporary)
        temporary.replace(file)
        sync(file.parent)
    except OSError as error:
        raise StoreError(f"cannot be written ({reason(error)})", where=str(file), fix="Make room.") from error
    finally:
        temporary.unlink(missing_ok=True)


def sweep(parent: Path) -> None:
    """Remove the temporary folders of writers that were killed more than a day ago."""
    for leftover in parent.glob(f"{TEMPORARY}*"):
        try:
            if time.time() - leftover.stat().st_mtime > ABANDONED_AFTER:
                shutil.rmtree(leftover)
        except OSError:  # its writer, or another sweep, was faster
            continue
