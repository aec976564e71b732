"""Text files: opening plain and gzip files, decoding, lines with their numbers, and the head of a file."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import IO, AnyStr

from searchlora.errors import DataError, UsageError
from searchlora.files.read_progress import open_counted

#: Bytes of a small file that is read whole.
MAX_SMALL = 1 << 23

#: What is wrong with a text that is not UTF-8.
NOT_UTF8 = "is not UTF-8 text"

#: First bytes of files that are not UTF-8 text -> what they are, and what to do.
_SIGNATURES = {
    codecs.BOM_UTF16_LE: ("UTF-16 text, not UTF-8", "Give --encoding utf-16, or convert it: iconv -f UTF-16 -t UTF-8."),
    codecs.BOM_UTF16_BE: ("UTF-16 text, not UTF-8", "Give --encoding utf-16, or convert it: iconv -f UTF-16 -t UTF-8."),
    b"\x1f\x8b": ("gzip, not text", "Unpack it, or let its name end in .gz."),
    b"\x28\xb5\x2f\xfd": ("Zstandard, not text", "Unpack it; only gzip is read packed."),
    b"PK\x03\x04": ("a ZIP archive or an Excel file, not text", "Unpack it, or save it as CSV."),
    b"PAR1": ("Parquet, not text", "Let its name end in .parquet."),
}

#: Bytes that `read_up_to` asks for at a time: `read(n)` reserves n bytes, however short the file is.
_PART = 1 << 20

_HEAD_BYTES = 1 << 16

_UTF8 = "utf-8-sig"

#: How tables and other texts are decoded in this thread or task; JSON is always UTF-8.
_encoding: ContextVar[str] = ContextVar("encoding", default=_UTF8)


@contextmanager
def reading_as(encoding: str | None) -> Iterator[None]:
    """Decode the text files that are opened in the block by an encoding; None: UTF-8. Raises `UsageError`."""
    try:
        "".encode(encoding or _UTF8)
    except LookupError:
        raise UsageError(f"there is no encoding '{encoding}'", where="--encoding", fix="For example cp1252.") from None
    token = _encoding.set(encoding or _UTF8)
    try:
        yield
    finally:
        _encoding.reset(token)


def decoded(file: IO[bytes], where: str, errors: str = "strict") -> io.TextIOWrapper:
    """The text of a table, which `reading_as` decodes. Raises `DataError` for a file of another kind."""
    if _encoding.get() == _UTF8:
        check_is_text(file, where)
    return io.TextIOWrapper(file, encoding=_encoding.get(), errors=errors, newline="")


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes, unpacked if its name ends in `.gz`."""
    try:
        with open_counted(path) as raw:
            if is_gzip(path):
                with gzip.open(raw) as packed, io.BufferedReader(packed) as unpacked:
                    yield unpacked
            else:
                yield raw
    except FileNotFoundError:
        raise DataError("there is no such file", where=str(path), fix="Check the path.") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"is not a sound gzip file ({error})", where=str(path), fix="Fetch it again.") from None
    except EOFError:
        raise DataError("the gzip file is cut off", where=str(path), fix="Fetch it again.") from None
    except UnicodeError as error:
        raise _undecodable(path, error) from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", where=str(path)) from None


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[IO[str]]:
    """Open a text file for reading, with or without a byte order mark, unpacked if its name ends in `.gz`."""
    encoding = _UTF8 if suffix_of(path) in (".json", ".jsonl", ".ndjson") else _encoding.get()
    with open_bytes(path) as raw, io.TextIOWrapper(raw, encoding=encoding, newline=newline) as text:
        yield text


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, each with its number from 1. Raises `DataError` as `open_text`."""
    with open_text(path) as text:
        for number, line in enumerate(text, start=1):
            if not line.isspace():
                yield number, line


def read_text(path: Path) -> str:
    """The whole text of a small file that a person writes, such as a guideline."""
    try:
        return read_bytes(path).decode(_UTF8)
    except UnicodeError as error:
        raise _undecodable(path, error) from None


def read_bytes(path: Path) -> bytes:
    """The bytes of a small file that a person writes, such as a recipe."""
    with open_bytes(path) as file:
        content = read_up_to(file, MAX_SMALL + 1)
    if len(content) > MAX_SMALL:
        raise DataError(f"has more than {MAX_SMALL:,} bytes", where=str(path), fix="Check that it is the right file.")
    return content


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a file that somebody else may have written. Raises `OSError`, also for one of more than `limit`."""
    with path.open("rb") as file:
        content = read_up_to(file, limit + 1)
    if len(content) > limit:
        raise OSError(f"it has more than {limit:,} bytes")
    return content


def read_up_to(file: IO[AnyStr], limit: int) -> AnyStr:
    """What is left of a file, at most `limit` bytes or characters of it, without reserving memory for the limit.

    Examples:
        >>> read_up_to(io.BytesIO(b"abc"), 2**40), read_up_to(io.StringIO("abc"), 2)
        (b'abc', 'ab')
    """
    parts = [file.read(min(limit, _PART))]
    left = limit - len(parts[0])
    while left and parts[-1]:
        parts.append(file.read(min(left, _PART)))
        left -= len(parts[-1])
    return parts[0][:0].join(parts)


def is_gzip(path: Path) -> bool:
    """Whether the name of a file says that it is gzip."""
    return path.name.lower().endswith(".gz")


def check_file(path: Path) -> None:
    """Raise `DataError` unless `path` is a file with content."""
    if path.is_dir():
        raise DataError("is a folder where a file is needed", where=str(path), fix="Name the file in it.")
    if not path.exists():
        raise DataError("there is no such file", where=str(path), fix="Check the path.")
    if not path.is_file():
        raise DataError("is a pipe or a device, not a file", where=str(path), fix="Save its content to a file.")
    if path.stat().st_size == 0:
        raise DataError("the file is empty", where=str(path), fix="Check the download or export that wrote it.")


@dataclass(frozen=True)
class Head:
    """The beginning of a file, from which its format is detected."""

    suffix: str  # suffix of the name in lower case without `.gz`; `""` if it has none
    raw: bytes  # the first bytes, unpacked
    text: str
    line: str


def read_head(path: Path) -> Head:
    """Read the head of a file. Raises `DataError` if it cannot be read."""
    with open_bytes(path) as file:
        raw = file.read(_HEAD_BYTES)
    text = raw.decode(_encoding.get(), errors="replace").lstrip()
    return Head(suffix_of(path), raw, text, re.split(r"[\r\n]", text, maxsplit=1)[0])


def suffix_of(path: Path) -> str:
    """The suffix of a file name in lower case, `.gz` aside.

    Examples:
        >>> suffix_of(Path("a/Topics.TSV.gz"))
        '.tsv'
    """
    return Path(path.name.lower().removesuffix(".gz")).suffix


def check_is_text(file: IO[bytes], where: str) -> None:
    """Raise `DataError` if the first bytes are those of UTF-16, of a packed file or of Parquet."""
    head = file.peek(8) if isinstance(file, io.BufferedReader) else b""
    for signature, (kind, fix) in _SIGNATURES.items():
        if head.startswith(signature):
            raise DataError(f"is {kind}", where=where, fix=fix)


def _undecodable(path: Path, error: UnicodeError) -> DataError:
    """The error for a file that cannot be decoded, with the line of its first invalid byte."""
    if _encoding.get() != _UTF8 and getattr(error, "encoding", "") not in ("utf-8", _UTF8):
        return DataError(f"is not {_encoding.get()} text ({error})", where=str(path), fix="Give its encoding.")
    with open_bytes(path) as file:
        check_is_text(file, str(path))
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as fault:
                fix = "Convert it, for example with iconv."
                return DataError(f"{NOT_UTF8} ({fault.reason})", where=f"{path}, line {number}", fix=fix)
    return DataError(f"{NOT_UTF8} ({error})", where=str(path))
