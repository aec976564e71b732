"""Folders and small files of adapters: written completely or not at all, and read within bounds."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError

from searchlora.errors import DataError, StoreError
from searchlora.files import atomic_folder, atomic_text, read_bounded

Items = TypeVar("Items")

_REMOVED = ".removed-"


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """As `files.atomic_folder`: the next writer of `out` removes what a killed one left.

    Raises:
        StoreError: if `out` exists and is not an empty folder, or cannot be written.
    """
    try:
        with atomic_folder(out) as new:
            try:
                yield new
            except SafetensorError as error:
                raise OSError(reason(error)) from error
    except DataError as error:
        if error.where != str(out):
            raise
        raise StoreError(error.what, where=error.where, fix="Make room or give another folder.") from error


def remove_folder(folder: Path) -> None:
    """Remove a folder; nobody sees it in part. What a killed removal beside it left is removed, too."""
    hidden = folder.with_name(f"{_REMOVED}{uuid.uuid4().hex}")
    try:
        folder.rename(hidden)
    except OSError as error:
        raise StoreError(f"cannot be removed ({reason(error)})", where=str(folder)) from error
    for leftover in folder.parent.glob(f"{_REMOVED}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def reason(error: Exception) -> str:
    """The system's message of an error; safetensors raises its own error for a full disk."""
    return getattr(error, "strerror", None) or str(error)


def replace_text(file: Path, text: str) -> None:
    """Replace a text file atomically. Raises `StoreError`; the old content stays."""
    try:
        with atomic_text(file) as out:
            out.write(text)
    except DataError as error:
        raise StoreError(error.what, where=str(file), fix=error.fix) from error


def read_list(
    file: Path, items: TypeAdapter[tuple[Items, ...]], limit: int, *, what: str, fix: str
) -> tuple[Items, ...]:
    """The items of a JSON list of at most `limit` bytes; empty if there is no file.

    Args:
        what, fix: What the items are, in the plural, and what to do about a damaged file, for the error.

    Raises:
        StoreError: if the file is damaged, too large, or not a plain file.
    """
    try:
        return items.validate_json(read_bounded(file, limit))
    except FileNotFoundError:
        return ()
    except (ValidationError, OSError) as error:
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise StoreError(f"is not a list of {what} ({problem})", where=str(file), fix=fix) from None
