"""One writer at a time for each name, also across processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from searchlora.errors import StoreError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a name's folder, which is made where there is none.

    Raises:
        StoreError: when the folder cannot be written.
    """
    from filelock import FileLock

    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror})", where=str(folder)) from error
    try:
        yield
    finally:
        lock.release()
