"""What the system knows of a file without reading it: cached hashes, and files that stay open to notice a change."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from searchlora.errors import DataError
from searchlora.files.atomic import atomic_text
from searchlora.files.text import read_bounded


class FileState(NamedTuple):
    """A file's identity, size and times. Equal states mean equal content.

    A writer can set the time of modification to any value; the system sets the time of change (`ctime`) at each write.
    """

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, stat: os.stat_result) -> FileState:
        """The state in the result of `os.stat`."""
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def cached_digest(cache: Path) -> str | None:
    """The sha256 that `cache_digest` wrote, or None."""
    try:
        digest = read_bounded(cache, 64).decode("ascii")
    except (OSError, ValueError):
        return None
    return digest if re.fullmatch("[0-9a-f]{64}", digest) else None


def cache_digest(cache: Path, digest: str) -> None:
    """Write a sha256 to a cache; one that cannot be written only costs hashing again."""
    with suppress(DataError), atomic_text(cache) as out:
        out.write(digest)
