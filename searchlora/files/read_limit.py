"""A limit of what is read, for commands that look at the beginning of files that may hold far more than they show."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from searchlora.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class ReadLimitReached(DataError):
    """The beginning of a file was read; `what` says how much: "the first 1,000 bytes"."""


@dataclass
class ReadLimit:
    """How much is read inside `limited_reads`.

    Attributes:
        max_bytes: Bytes of each opened file, unpacked.
        seconds: Seconds for all files together.
    """

    max_bytes: int
    seconds: float
    _deadline: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + self.seconds

    def check_time(self) -> None:
        """Raise `ReadLimitReached` when the time is over."""
        if time.monotonic() > self._deadline:
            raise ReadLimitReached(f"what could be read in {self.seconds:g} seconds")


_current: ContextVar[ReadLimit | None] = ContextVar("read_limit", default=None)


@contextmanager
def limited_reads(limit: ReadLimit) -> Iterator[ReadLimit]:
    """Let files opened inside the block raise `ReadLimitReached` beyond the limit.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from searchlora.files import open_bytes
        >>> path = Path(tempfile.mkdtemp()) / "rows.jsonl"
        >>> _ = path.write_text("[1]\\n" * 1000)
        >>> with limited_reads(ReadLimit(max_bytes=1000, seconds=60)), open_bytes(path) as file:
        ...     file.read()
        Traceback (most recent call last):
            ...
        searchlora.files.read_limit.ReadLimitReached: the first 1,000 bytes.
    """
    token = _current.set(limit)
    try:
        yield limit
    finally:
        _current.reset(token)


def check_read_time() -> None:
    """Raise `ReadLimitReached` when the time of the limit in force is over, between two parts of long work."""
    limit = _current.get()
    if limit is not None:
        limit.check_time()


def metered(file: IO[bytes]) -> IO[bytes]:
    """The file, of which at most the limit in force can be read."""
    limit = _current.get()
    return file if limit is None else io.BufferedReader(_Metered(file, limit), 1 << 16)


class _Metered(io.RawIOBase):
    def __init__(self, file: IO[bytes], limit: ReadLimit) -> None:
        self._file = file
        self._limit = limit
        self._left = limit.max_bytes

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        self._limit.check_time()
        view = memoryview(buffer)
        data = self._file.read(min(len(view), max(1, self._left)))
        if len(data) > self._left:
            raise ReadLimitReached(f"the first {self._limit.max_bytes:,} bytes")
        self._left -= len(data)
        view[: len(data)] = data
        return len(data)
