"""Progress of reading: bytes counted at the files themselves, so that all readers are counted alike."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from searchlora.progress import Progress, silent

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BYTES_BETWEEN_REPORTS = 1 << 18

#: What is wrong with a file whose reading might never end.
NOT_REGULAR = "is a pipe or a device, not a file"


@dataclass
class ReadProgress:
    """Counts the bytes that readers inside `track_reads` read.

    Attributes:
        total: Total bytes to read, as far as known in advance.
        progress: Called about every 256 KiB with bytes read, total bytes and the rows so far.
        rows: Number of rows; set by the consumer of the rows.
        done: Bytes read so far.
        files: Every opened file, in order, each once.
    """

    total: int = 0
    progress: Progress = silent
    rows: int = 0
    done: int = 0
    files: dict[Path, None] = field(default_factory=dict)
    _reported_at: int = 0

    def add(self, count: int) -> None:
        """Count bytes read."""
        self.done += count
        if self.done - self._reported_at >= BYTES_BETWEEN_REPORTS:
            self.report()

    def report(self) -> None:
        """Call `progress` now."""
        self._reported_at = self.done
        self.progress(min(self.done, self.total), self.total, f"{self.rows:,} rows")


_current: ContextVar[ReadProgress | None] = ContextVar("read_progress", default=None)


@contextmanager
def track_reads(tracker: ReadProgress) -> Iterator[ReadProgress]:
    """Let `tracker` count every file that `open_counted` opens inside the block."""
    token = _current.set(tracker)
    try:
        yield tracker
    finally:
        _current.reset(token)


def open_counted(path: Path) -> io.BufferedReader:
    """Open a binary file for reading, counted by the tracker in force, if there is one.

    Raises:
        OSError: if it cannot be opened, or is a pipe or a device, whose reading might never end.
    """
    tracker = _current.get()
    if tracker is None:
        return open_regular(path)
    file = _CountedFile(path, tracker)
    tracker.files[path] = None
    return io.BufferedReader(file, buffer_size=1 << 16)


def open_regular(path: Path) -> io.BufferedReader:
    """Open a binary file for reading. Raises `OSError` as `open_counted`."""
    return io.BufferedReader(io.FileIO(path, "rb", opener=_open_regular), buffer_size=1 << 16)


def _open_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # to open a pipe would wait for its writer
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise OSError(errno.EINVAL, NOT_REGULAR, path)


class _CountedFile(io.FileIO):
    def __init__(self, path: Path, tracker: ReadProgress) -> None:
        super().__init__(path, "rb", opener=_open_regular)
        self._tracker = tracker

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        count = super().readinto(buffer)
        self._tracker.add(count)
        return count
