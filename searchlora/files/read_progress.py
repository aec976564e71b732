"""Files opened for reading: bytes counted for progress, and limited for commands that look at the beginning only."""

from __future__ import annotations

import errno
import gzip
import io
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from searchlora.errors import DataError
from searchlora.progress import Progress, silent

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BYTES_BETWEEN_REPORTS = 1 << 18

#: What is wrong with a file whose reading might never end.
NOT_REGULAR = "is a pipe or a device, not a file"

_BUFFER = 1 << 16


def open_regular(path: Path) -> io.BufferedReader:
    """Open a binary file for reading.

    Raises:
        OSError: if it cannot be opened, or is a pipe or a device, whose reading might never end.
    """
    return io.BufferedReader(io.FileIO(path, "rb", opener=_open_regular), _BUFFER)


def _open_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # to open a pipe would wait for its writer
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise OSError(errno.EINVAL, NOT_REGULAR, path)


# Progress, counted at the files themselves, so that all readers are counted alike


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


_tracker: ContextVar[ReadProgress | None] = ContextVar("tracker", default=None)


@contextmanager
def track_reads(tracker: ReadProgress) -> Iterator[ReadProgress]:
    """Let `tracker` count every file that `open_counted` opens inside the block."""
    token = _tracker.set(tracker)
    try:
        yield tracker
    finally:
        _tracker.reset(token)


def open_counted(path: Path) -> io.BufferedReader:
    """As `open_regular`, counted by the tracker in force, if there is one."""
    tracker = _tracker.get()
    if tracker is None:
        return open_regular(path)
    file = _CountedFile(path, "rb", opener=_open_regular)
    file.tracker = tracker
    tracker.files[path] = None
    return io.BufferedReader(file, _BUFFER)


class _CountedFile(io.FileIO):
    tracker: ReadProgress

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        count = super().readinto(buffer)
        self.tracker.add(count)
        return count


# Limits


class ReadLimitReached(DataError):
    """The beginning of a file was read; `what` says how much: "the first 1,000 bytes"."""


class _Limit(NamedTuple):
    max_bytes: int
    seconds: float
    deadline: float


_limit: ContextVar[_Limit | None] = ContextVar("limit", default=None)


@contextmanager
def limited_reads(max_bytes: int, seconds: float) -> Iterator[None]:
    """Let files opened inside the block raise `ReadLimitReached` beyond a limit.

    Args:
        max_bytes: Bytes of each file, unpacked.
        seconds: Seconds for all files together.

    Examples:
        >>> import tempfile
        >>> from searchlora.files import open_bytes
        >>> path = Path(tempfile.mkdtemp()) / "rows.jsonl"
        >>> _ = path.write_text("[1]\\n" * 1000)
        >>> with limited_reads(max_bytes=1000, seconds=60), open_bytes(path) as file:
        ...     file.read()
        Traceback (most recent call last):
            ...
        searchlora.files.watched_reads.ReadLimitReached: the first 1,000 bytes.
    """
    token = _limit.set(_Limit(max_bytes, seconds, time.monotonic() + seconds))
    try:
        yield
    finally:
        _limit.reset(token)


def check_read_time() -> None:
    """Raise `ReadLimitReached` when the time of the limit in force is over, between two parts of long work."""
    limit = _limit.get()
    if limit is not None and time.monotonic() > limit.deadline:
        raise ReadLimitReached(f"what could be read in {limit.seconds:g} seconds")


def metered(file: IO[bytes]) -> IO[bytes]:
    """The file, of which at most the limit in force can be read."""
    limit = _limit.get()
    if limit is None:
        return file
    refusal = ReadLimitReached(f"the first {limit.max_bytes:,} bytes")
    return io.BufferedReader(_Metered(file, limit.max_bytes, refusal), _BUFFER)


class BoundedReader(io.RawIOBase):
    """The bytes of a file up to a limit; to read more raises the `refusal`."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile, max_bytes: int, refusal: DataError) -> None:
        self._file = file
        self._left = max_bytes
        self._refusal = refusal

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        check_read_time()
        view = memoryview(buffer)
        data = self._file.read(min(len(view), max(1, self._left)))
        if len(data) > self._left:
            raise self._refusal
        self._left -= len(data)
        view[: len(data)] = data
        return len(data)


class _Metered(BoundedReader):
    """A `BoundedReader` of a file that may be read at any place."""

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
