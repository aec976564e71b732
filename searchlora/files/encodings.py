"""Files in another encoding than UTF-8, whose readers get UTF-8.

JSON and Parquet are UTF-8 by their standards and are read as they are. So are other files that are UTF-8 and not ASCII
alone: text in another encoding is hardly ever valid UTF-8, and a corpus and its qrels may have different encodings.
"""

from __future__ import annotations

import codecs
import gzip
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from searchlora.errors import DataError, UsageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: What is wrong with a text that is not UTF-8.
NOT_UTF8 = "is not UTF-8 text"

_UTF8_BY_STANDARD = (".json", ".jsonl", ".ndjson", ".parquet")
_CHUNK = 1 << 16


class _Encoded(NamedTuple):
    encoding: str
    paths: tuple[Path, ...]


_encoded: ContextVar[_Encoded | None] = ContextVar("encoded", default=None)


@contextmanager
def reading_as(encoding: str | None, paths: Iterable[Path]) -> Iterator[None]:
    """Let `open_bytes` convert some files, or those in some folders, to UTF-8 inside the block.

    Args:
        encoding: A name that Python knows, such as `latin-1`; None: nothing is converted.

    Raises:
        UsageError: for an unknown encoding.

    Examples:
        >>> import tempfile
        >>> from searchlora.files import read_text
        >>> path = Path(tempfile.mkdtemp()) / "queries.csv"
        >>> _ = path.write_bytes("café".encode("latin-1"))
        >>> with reading_as("latin-1", [path]):
        ...     read_text(path)
        'café'
    """
    if encoding is None:
        yield
        return
    token = _encoded.set(_Encoded(_known(encoding), tuple(path.resolve() for path in paths)))
    try:
        yield
    finally:
        _encoded.reset(token)


def _known(encoding: str) -> str:
    try:
        "".encode(encoding)  # also refuses codecs that are no encodings of text, such as base64
    except LookupError:
        raise UsageError(
            f"there is no encoding '{encoding[:60]}'", where="--encoding", fix="For example cp1252, latin-1, utf-16."
        ) from None
    return encoding


def as_utf8(file: IO[bytes], path: Path) -> IO[bytes]:
    """The bytes of an open file, converted if `reading_as` says so."""
    encoded = _encoded.get()
    if encoded is None or path.name.lower().removesuffix(".gz").endswith(_UTF8_BY_STANDARD):
        return file
    place = path.resolve()
    if not any(place == named or named in place.parents for named in encoded.paths) or _is_utf8(path):
        return file
    return io.BufferedReader(_Converted(file, encoded.encoding, str(path)), _CHUNK)


def _is_utf8(path: Path) -> bool:
    """Whether a file is UTF-8 with letters beyond ASCII."""
    decoder, beyond = codecs.getincrementaldecoder("utf-8")(), False
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        try:
            while chunk := file.read(_CHUNK):
                beyond = beyond or not chunk.isascii()
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return beyond


class _Converted(io.RawIOBase):
    """The UTF-8 bytes of a text in another encoding."""

    def __init__(self, file: IO[bytes], encoding: str, where: str) -> None:
        self._file, self._encoding, self._where = file, encoding, where
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._waiting = b""
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        while not self._waiting:
            data = self._file.read(_CHUNK)
            try:
                self._waiting = self._decoder.decode(data, final=not data).encode("utf-8")
            except UnicodeError as error:
                raise DataError(
                    f"is not {self._encoding} text after {self._read:,} bytes ({error})",
                    where=self._where,
                    fix="Give the encoding in which it was written.",
                ) from None
            self._read += len(data)
            if not data:
                break
        data, self._waiting = self._waiting[: len(view)], self._waiting[len(view) :]
        view[: len(data)] = data
        return len(data)
