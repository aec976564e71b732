"""Text files: opening plain and gzip files, decoding UTF-8, lines with their numbers, and the head of a file.

Memory is bounded: a gzip file may unpack to at most `MAX_UNPACK_RATIO` times its size (small files to
`MIN_UNPACK_LIMIT`), and a line may have at most `MAX_LINE` characters.
"""

from __future__ import annotations

import codecs
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, AnyStr

from searchlora.errors import DataError
from searchlora.files.encodings import NOT_UTF8, as_utf8
from searchlora.files.watched_reads import NOT_REGULAR, BoundedReader, metered, open_counted

#: A gzip file unpacks to at most this many times its own size. Text has ratios of 3 to 30.
MAX_UNPACK_RATIO = 100

#: Bytes that any gzip file may unpack to, whatever its ratio.
MIN_UNPACK_LIMIT = 1 << 26

#: Characters of a line, or of a row.
MAX_LINE = 1 << 25

#: Bytes of a small file that is read whole.
MAX_SMALL = 1 << 23

#: First bytes of files that are not UTF-8 text -> what they are, and what to do. UTF-32 begins as UTF-16 does.
_SIGNATURES = {
    codecs.BOM_UTF32_LE: ("UTF-32 text, not UTF-8", "Convert it: iconv -f UTF-32 -t UTF-8."),
    codecs.BOM_UTF32_BE: ("UTF-32 text, not UTF-8", "Convert it: iconv -f UTF-32 -t UTF-8."),
    codecs.BOM_UTF16_LE: ("UTF-16 text, not UTF-8", "Convert it: iconv -f UTF-16 -t UTF-8."),
    codecs.BOM_UTF16_BE: ("UTF-16 text, not UTF-8", "Convert it: iconv -f UTF-16 -t UTF-8."),
    b"\x1f\x8b": ("gzip, not text", "Unpack it, or let its name end in .gz."),
    b"\x28\xb5\x2f\xfd": ("Zstandard, not text", "Unpack it; only gzip is read packed."),
    b"\xfd7zXZ\0": ("xz, not text", "Unpack it; only gzip is read packed."),
    b"BZh": ("bzip2, not text", "Unpack it; only gzip is read packed."),
    b"PK\x03\x04": ("a ZIP archive, not text", "Unpack it."),
    b"PAR1": ("Parquet, not text", "Let its name end in .parquet."),
}

_CHUNK = 1 << 16

#: Bytes that `read_up_to` asks for at a time: `read(n)` reserves n bytes, however short the file is.
_PART = 1 << 20

_HEAD_BYTES = 1 << 16


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes, unpacked if its name ends in `.gz`, and converted as `reading_as` says.

    Raises:
        DataError: if the file is missing, cannot be read, is not the gzip file that its name says, or unpacks to far
            more than its size.
    """
    try:
        with open_counted(path) as raw:
            if is_gzip(path):
                with gzip.open(raw) as packed, io.BufferedReader(_unpacked(packed, path), _CHUNK) as unpacked:
                    yield as_utf8(metered(unpacked), path)
            else:
                yield as_utf8(metered(raw), path)
    except FileNotFoundError:
        raise DataError("there is no such file", where=str(path), fix="Check the path.") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"is not a sound gzip file ({error})", where=str(path), fix="Fetch it again.") from None
    except EOFError:
        raise DataError("the gzip file is cut off", where=str(path), fix="Fetch it again.") from None
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    except OSError as error:
        if error.strerror == NOT_REGULAR:
            raise _not_regular(path) from None
        raise DataError(f"cannot be read ({error.strerror or error})", where=str(path)) from None


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[IO[str]]:
    """Open a UTF-8 text file for reading, with or without a byte order mark, unpacked if its name ends in `.gz`.

    Raises:
        DataError: as `open_bytes`, and if the text is not UTF-8; the message names the line.
    """
    with open_bytes(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline=newline) as text:
        yield text


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, each with its number from 1.

    Raises:
        DataError: as `open_text`, and if a line has more than `MAX_LINE` characters.
    """
    with open_text(path) as text:
        for number, line in enumerate(iter(partial(text.readline, MAX_LINE), ""), start=1):
            if len(line) >= MAX_LINE:
                raise DataError(f"has more than {MAX_LINE:,} characters", where=f"{path}, line {number}")
            if not line.isspace():
                yield number, line


def read_text(path: Path) -> str:
    """The whole text of a small file that a person writes, such as a guideline.

    Raises:
        DataError: as `open_text`, and if the file has more than `MAX_SMALL` bytes.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None


def read_bytes(path: Path) -> bytes:
    """The bytes of a small file that a person writes, such as a recipe.

    Raises:
        DataError: as `open_bytes`, and if the file has more than `MAX_SMALL` bytes.
    """
    with open_bytes(path) as file:
        content = read_up_to(file, MAX_SMALL + 1)
    if len(content) > MAX_SMALL:
        raise DataError(f"has more than {MAX_SMALL:,} bytes", where=str(path), fix="Check that it is the right file.")
    return content


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a file that somebody else may have written, as they are.

    Raises:
        OSError: if it cannot be read, is a pipe or a device, or has more than `limit` bytes.
    """
    with open_counted(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = read_up_to(file, limit + 1) if size <= limit else b""
    if max(size, len(content)) > limit:  # some file systems do not know its size
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
        raise _not_regular(path)
    if path.stat().st_size == 0:
        raise DataError("the file is empty", where=str(path), fix="Check the download or export that wrote it.")


@dataclass(frozen=True)
class Head:
    """The beginning of a file, from which its format is detected.

    Attributes:
        suffix: Suffix of the name in lower case without `.gz`; `""` if it has none.
        raw: The first bytes, unpacked.
        text: The same, decoded.
        line: The first line that is not blank.
    """

    suffix: str
    raw: bytes
    text: str
    line: str


def read_head(path: Path) -> Head:
    """Read the head of a file. Raises `DataError` if it cannot be read."""
    with open_bytes(path) as file:
        raw = file.read(_HEAD_BYTES)
    text = raw.decode("utf-8-sig", errors="replace").lstrip()
    return Head(suffix_of(path), raw, text, re.split(r"[\r\n]", text, maxsplit=1)[0])


def suffix_of(path: Path) -> str:
    """The suffix of a file name in lower case, `.gz` aside.

    Examples:
        >>> suffix_of(Path("a/Topics.TSV.gz"))
        '.tsv'
    """
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _unpacked(packed: gzip.GzipFile, path: Path) -> BoundedReader:
    """The unpacked bytes of a gzip file, up to the limit for its size."""
    refusal = DataError(
        f"the gzip file unpacks to more than {MAX_UNPACK_RATIO} times its size",
        where=str(path),
        fix="Check what it holds; if it is sound, unpack it and read the unpacked file.",
    )
    return BoundedReader(packed, max(MIN_UNPACK_LIMIT, MAX_UNPACK_RATIO * path.stat().st_size), refusal)


def check_is_text(file: IO[bytes], where: str) -> None:
    """Raise `DataError` if the first bytes are those of UTF-16, of a packed file or of Parquet."""
    if isinstance(file, io.BufferedReader) and (fault := _signature_fault(file.peek(8), where)):
        raise fault


def _signature_fault(head: bytes, where: str) -> DataError | None:
    for signature, (kind, fix) in _SIGNATURES.items():
        if head.startswith(signature):
            return DataError(f"is {kind}", where=where, fix=fix)
    return None


def _not_regular(path: Path) -> DataError:
    return DataError(NOT_REGULAR, where=str(path), fix="Save its content to a file.")


def _not_utf8(path: Path, error: UnicodeDecodeError) -> DataError:
    """The error for a file that is not UTF-8, with the line of its first invalid byte."""
    where, fix = str(path), "Convert it, for example with iconv."
    with open_bytes(path) as file:
        for number, line in enumerate(iter(partial(file.readline, MAX_LINE), b""), start=1):
            if number == 1 and (known := _signature_fault(line, where)):
                return known
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as fault:
                return DataError(f"{NOT_UTF8} ({fault.reason})", where=f"{where}, line {number}", fix=fix)
    return DataError(f"{NOT_UTF8} ({error.reason})", where=where, fix=fix)
