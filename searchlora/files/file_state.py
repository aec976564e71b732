"""What the system knows of a file without reading it: cached hashes, and files that stay open to notice a change."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from weakref import finalize

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


class WatchedFiles:
    """Files that are kept open while they are memory-mapped, to notice that one was changed in place.

    Reading a mapped page that was cut off kills the process (SIGBUS), so a reader asks before it reads. A file that was
    replaced or deleted is not changed: the open file still has the old content.

    Args:
        files: Name -> path.

    Raises:
        OSError: if a file cannot be opened.

    Examples:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "vectors.npy"
        >>> _ = file.write_bytes(b"abc")
        >>> watched = WatchedFiles({"vectors": file})
        >>> watched.changed() is None
        True
        >>> os.truncate(file, 1)
        >>> watched.changed()
        'vectors'
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._opened: dict[str, tuple[int, FileState]] = {}
        finalize(self, _close, self._opened)
        for name, path in files.items():
            descriptor = os.open(path, os.O_RDONLY)
            self._opened[name] = (descriptor, FileState.of(os.fstat(descriptor)))

    def changed(self) -> str | None:
        """The name of a file that was written to, or cut off, since it was opened; None if there is none."""
        for name, (descriptor, opened) in self._opened.items():
            stat = os.fstat(descriptor)
            # Not the time of change: a new name or a lost one, as of a hard link, sets it, too.
            if stat.st_size != opened.size or stat.st_mtime_ns != opened.modified_ns:
                return name
        return None

    def replaced(self, name: str, path: Path) -> bool:
        """Whether the path of a file names another file, or another state of it, than the one that was opened."""
        try:
            return FileState.of(path.stat()) != self._opened[name][1]
        except OSError:
            return True


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


def _close(opened: dict[str, tuple[int, FileState]]) -> None:
    for descriptor, _ in opened.values():
        os.close(descriptor)
    opened.clear()
