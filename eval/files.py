"""Files: text read, plain or gzip; written so that a kill leaves the old file or the new one, never a half; hashed."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from searchlora.errors import DataError


@contextmanager
def opened_text(path: Path, newline: str | None = None) -> Iterator[IO[str]]:
    """A UTF-8 file to read from, with or without a byte-order mark, gzip where the name ends in `.gz`.

    Raises:
        DataError: when the file is missing, is not UTF-8, or is not the gzip that its name says.
    """
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig", newline=newline)
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig", newline=newline) as text
        ):
            yield text
    except FileNotFoundError:
        raise DataError("there is no such file", where=str(path)) from None
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 text ({error.reason})", where=str(path)) from None
    except (gzip.BadGzipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(f"cannot be read ({error})", where=str(path)) from None


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1; see `opened_text`."""
    with opened_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.isspace():
                yield number, line


def file_sha256(path: str | Path) -> str:
    """sha256 of a file's bytes, 64 hexadecimal digits. Raises `DataError` where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from None


def tree_sha256(path: Path) -> str:
    """sha256 of a file, or of a folder: over the names and hashes of all files in it. Raises `DataError`."""
    if not path.is_dir():
        return file_sha256(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    listed = "\n".join(f"{file_sha256(file)} {file.relative_to(path)}" for file in files)
    return hashlib.sha256(listed.encode()).hexdigest()


def check_writable(*paths: Path | None) -> None:
    """Ask before long work whether files can be written at its end; None is a file that nobody wants.

    Nothing is made. A disk that fills up meanwhile is told by the writing itself.

    Raises:
        DataError: for a path that is a folder, or whose folder is not there and cannot be made, or is not writable.
    """
    for path in paths:
        if path is not None and (why := _why_not_writable(path)):
            raise DataError(f"cannot be written ({why})", where=str(path))


def _why_not_writable(path: Path) -> str:
    try:
        if path.is_dir():
            return "it is a folder"
        folder = next(above for above in path.absolute().parents if above.exists())
    except OSError as error:
        return error.strerror or str(error)
    if not folder.is_dir():
        return f"{folder} is not a folder"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} is not writable"


@contextmanager
def atomic_text(path: Path) -> Iterator[IO[str]]:
    """A text file to write to, in UTF-8, gzip where the name ends in `.gz`; see `atomic_bytes`."""
    with atomic_bytes(path) as raw, _text(raw, path) as text:
        try:
            yield text
        except UnicodeEncodeError as error:
            raise DataError(
                f"{error.object[error.start : error.end]!r} cannot be written as UTF-8", where=str(path)
            ) from None


@contextmanager
def atomic_bytes(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, that takes the place of `path` only once all of it is written.

    Raises:
        DataError: when the folder cannot be written to or the disk is full; `path` is as it was before.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror})", where=str(path)) from None
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as raw:
            yield raw
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror})", where=str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _text(raw: IO[bytes], path: Path) -> Iterator[IO[str]]:
    if path.suffix != ".gz":
        with io.TextIOWrapper(raw, encoding="utf-8", newline="\n") as text:
            yield text
        return
    # No name and no time in the header: the same run gives the same bytes.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as text,
    ):
        yield text


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
