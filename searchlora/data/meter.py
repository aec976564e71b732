"""How far the reading of a source has come, counted at the files themselves so that every reader is counted alike."""

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

BYTES_BETWEEN_TELLING = 1 << 18


@dataclass
class Meter:
    """Counts what the readers inside `metered` read.

    Attributes:
        total: Bytes that will be read in all, as far as known beforehand.
        progress: Told bytes done, bytes in all and the rows so far, about every 256 KiB.
        done: Bytes read so far.
        rows: Set by whoever consumes the rows.
        files: Every file opened, in order, each once.
    """

    total: int = 0
    progress: Progress = silent
    rows: int = 0
    done: int = 0
    files: dict[Path, None] = field(default_factory=dict)
    _told_at: int = 0

    def add(self, count: int) -> None:
        """Count bytes read."""
        self.done += count
        if self.done - self._told_at >= BYTES_BETWEEN_TELLING:
            self.tell()

    def tell(self) -> None:
        """Tell `progress` now."""
        self._told_at = self.done
        self.progress(min(self.done, self.total), self.total, f"{self.rows:,} rows")


_current: ContextVar[Meter | None] = ContextVar("meter", default=None)


@contextmanager
def metered(meter: Meter) -> Iterator[Meter]:
    """Let `meter` count every file opened by `open_counted` inside the block."""
    token = _current.set(meter)
    try:
        yield meter
    finally:
        _current.reset(token)


def open_counted(path: Path) -> io.BufferedReader:
    """Open a file for reading bytes, counted by the meter in force, if there is one."""
    meter = _current.get()
    if meter is None:
        return path.open("rb")
    file = _CountedFile(path, meter)
    meter.files[path] = None
    return io.BufferedReader(file, buffer_size=1 << 16)


class _CountedFile(io.FileIO):
    def __init__(self, path: Path, meter: Meter) -> None:
        super().__init__(path, "rb")
        self._meter = meter

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        count = super().readinto(buffer)
        self._meter.add(count)
        return count
