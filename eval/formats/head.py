"""The beginning of a file, by which its format is told."""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from searchlora.errors import DataError

_BYTES = 1 << 16


@dataclass(frozen=True)
class Head:
    """The beginning of a file.

    Attributes:
        ending: Of its name in lower case, `.gz` left out; `""` where it has none.
        raw: The first bytes, unpacked.
        text: The same as text.
        line: Its first line that is not blank.
    """

    ending: str
    raw: bytes
    text: str
    line: str


def read_head(path: Path) -> Head:
    """Raises DataError for a file that is not there or cannot be read."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read(_BYTES)
    except FileNotFoundError:
        raise DataError("there is no such file", where=str(path)) from None
    except (gzip.BadGzipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(f"cannot be read ({error})", where=str(path)) from None
    text = raw.decode("utf-8-sig", errors="replace").lstrip()
    return Head(ending_of(path), raw, text, re.split(r"[\r\n]", text, maxsplit=1)[0])


def ending_of(path: Path) -> str:
    """`.tsv` for `a/Topics.TSV.gz`."""
    return Path(path.name.lower().removesuffix(".gz")).suffix
