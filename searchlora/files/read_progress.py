"""Progress of reading, counted at the files themselves, so that all readers are counted alike."""

from __future__ import annotations

import io
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


@dataclass
class ReadProgress:
    """Counts the bytes that readers inside `track_reads` read."""

    total: int = 0  # total bytes to read, as far as known in advance
    progress: Progress = silent  # called about every 256 KiB with bytes read, total bytes and the rows so far
    rows: int = 0
    done: int = 0  # bytes read so far
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
    """Open a binary file for reading; the tracker in force counts its bytes."""
    tracker = _tracker.get()
    if tracker is None:
        return path.open("rb")
    tracker.files[path] = None
    return io.BufferedReader(_CountedFile(path, tracker))


class _CountedFile(io.FileIO):
    def __init__(self, path: Path, tracker: ReadProgress) -> None:
        super().__init__(path, "rb")
        self._tracker = tracker

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        count = super().readinto(buffer)
        self._tracker.add(count)
        return count
