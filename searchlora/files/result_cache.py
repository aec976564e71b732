"""One cache of keyed results: JSON values in an SQLite file, shared by processes and threads.

A value is on disk when `put` returns, so neither a kill nor a power cut loses it. A cache holds only what can be
computed again: a damaged file is renamed and the cache begins anew, and a damaged entry counts as unknown. A full disk
or a folder that cannot be written is an error, since a run that goes on without its cache could not be resumed.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from searchlora.errors import DataError, UsageError
from searchlora.files.json_text import parse_json

#: Smallest limit of a cache: an empty file of SQLite has a few pages of 4 KiB.
MIN_BYTES = 1 << 16

#: Seconds that a process waits while another one writes.
_PATIENCE = 60.0

#: Reads whose time is written together; each write is synced to disk.
_READS = 256

#: Share of the limit that an eviction leaves, so that not every write evicts.
_AFTER_EVICTION = 0.9

#: Name -> statement that makes it; a file with anything else is not a cache.
SCHEMA = {
    "results": "CREATE TABLE results"
    " (key TEXT PRIMARY KEY, value TEXT NOT NULL, label TEXT NOT NULL, used INTEGER NOT NULL)",
    "by_use": "CREATE INDEX by_use ON results (used)",
}

_T = TypeVar("_T")


def cache_key(*parts: Any) -> str:
    """sha256 of JSON values, 64 hexadecimal digits; the order of an object's keys does not matter.

    Examples:
        >>> cache_key({"a": 1, "b": [2, 3]}) == cache_key({"b": (2, 3), "a": 1})
        True
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class ResultCache:
    """Results by key, in one SQLite file; safe for several processes and threads, and for kill -9.

    Examples:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "results.sqlite"
        >>> ResultCache(file).put(cache_key("tent", 3), {"hits": ["d1"]}, label="system a, query 1")
        >>> ResultCache(file).get(cache_key("tent", 3))
        {'hits': ['d1']}
    """

    def __init__(self, file: Path | None, *, max_bytes: int | None = None, refuse_foreign: bool = False) -> None:
        if max_bytes is not None and max_bytes < MIN_BYTES:
            raise UsageError(f"a cache of {max_bytes} bytes holds nothing", fix=f"Give at least {MIN_BYTES}.")
        self.file = file
        self.max_bytes = max_bytes
        self._refuse_foreign = refuse_foreign
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._inode: int | None = None
        self._reads: dict[str, int] = {}  # key -> time, not yet written
        if file is not None:
            self._execute(_bytes_in_use)

    def get(self, key: str) -> Any | None:
        """The value of a key; None if it is unknown or its entry is damaged."""
        if self.file is None:
            return None

        def read(database: sqlite3.Connection) -> Any | None:
            row = database.execute("SELECT CAST(value AS BLOB) FROM results WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            try:
                value = parse_json((row[0] or b"").decode("utf-8"))
            except ValueError:
                return None
            if self.max_bytes is not None:
                self._reads[key] = time.time_ns()
                if len(self._reads) >= _READS:
                    with transaction(database):
                        self._write_reads(database)
            return value

        return self._execute(read)

    def put(self, key: str, value: Any, label: str = "") -> None:
        """Store a JSON value; `label` is for a person who looks into the file."""
        self.put_all({key: value}, label)

    def put_all(self, values: Mapping[str, Any], label: str = "") -> None:
        """Store several values in one transaction: all or none."""
        if self.file is None or not values:
            return
        label = label.encode("utf-8", "replace").decode()
        rows = [(key, json.dumps(value, allow_nan=False), label, time.time_ns()) for key, value in values.items()]

        def write(database: sqlite3.Connection) -> None:
            with transaction(database):
                self._write_reads(database)
                database.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)", rows)
                self._evict(database)

        self._execute(write)

    def __len__(self) -> int:
        """Number of results."""
        if self.file is None:
            return 0
        return self._execute(lambda database: int(database.execute("SELECT COUNT(*) FROM results").fetchone()[0]))

    def _write_reads(self, database: sqlite3.Connection) -> None:
        rows = [(used, key) for key, used in self._reads.items()]
        database.executemany("UPDATE results SET used = ? WHERE key = ?", rows)
        self._reads.clear()

    def _evict(self, database: sqlite3.Connection) -> None:
        if self.max_bytes is None or _bytes_in_use(database) <= self.max_bytes:
            return
        oldest = "SELECT rowid FROM results ORDER BY used LIMIT MAX(1, (SELECT COUNT(*) FROM results) / 20)"
        while _bytes_in_use(database) > _AFTER_EVICTION * self.max_bytes:
            if not database.execute(f"DELETE FROM results WHERE rowid IN ({oldest})").rowcount:
                return

    def _execute(self, action: Callable[[sqlite3.Connection], _T]) -> _T:
        with self._lock:
            try:
                try:
                    return action(self._connected())
                except sqlite3.DatabaseError as error:
                    if not self._begins_anew(error):
                        raise
                    self._set_aside(error)
                    return action(self._connected())
            except (sqlite3.Error, OSError) as error:
                raise DataError(
                    f"cannot be used as a cache ({error})",
                    where=str(self.file),
                    fix="Delete the file, or name another one.",
                ) from None

    def _connected(self) -> sqlite3.Connection:
        """The open file; opened again if somebody has deleted or renamed it since."""
        assert self.file is not None
        inode = self.file.stat().st_ino if self.file.exists() else None
        if self._database is not None and inode == self._inode:
            return self._database
        self._close()
        if inode is not None and not self.file.is_file():
            raise OSError("it is not a regular file")
        self._inode = inode
        self.file.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self.file, timeout=_PATIENCE, check_same_thread=False, isolation_level=None)
        try:
            _check_schema(database)
        except BaseException:
            database.close()
            raise
        self._inode = self.file.stat().st_ino
        self._database = database
        return database

    def _begins_anew(self, error: sqlite3.DatabaseError) -> bool:
        if isinstance(error, _ForeignFile) or _code(error) == sqlite3.SQLITE_NOTADB:
            return not self._refuse_foreign
        return _code(error) == sqlite3.SQLITE_CORRUPT

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        """Rename the file that this process has opened, and its journal, unless another process has done it."""
        assert self.file is not None
        self._close()
        if not self.file.exists() or self.file.stat().st_ino != self._inode:
            return
        names = (f"{self.file}.damaged-{number}" for number in range(1, 1_000_000))
        aside = next(path for path in map(Path, names) if not path.exists())
        journal = Path(f"{self.file}-journal")
        if journal.exists():
            journal.replace(f"{aside}-journal")
        self.file.replace(aside)
        warnings.warn(
            f"{self.file}: cannot be used as a cache ({error}). It was renamed to {aside.name}; a new cache begins.",
            stacklevel=5,
        )

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
        self._database = None


class _ForeignFile(sqlite3.DatabaseError):
    """An SQLite file with other tables, indexes or triggers than a cache."""


def _check_schema(database: sqlite3.Connection) -> None:
    """Make the table in an empty file, and refuse any other schema: a trigger or a view could do anything."""

    def missing() -> list[str]:
        schema = dict(database.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
        if other := [name for name, sql in schema.items() if SCHEMA.get(name) != sql]:
            raise _ForeignFile(f"it has {str(other[0])[:80]!r}, which no cache has")
        return [sql for name, sql in SCHEMA.items() if name not in schema]

    if missing():
        with transaction(database):
            for sql in missing():  # another process may have been first
                database.execute(sql)


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """A transaction, which other processes wait for; an error undoes it."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # a full disk has undone it already
            database.execute("ROLLBACK")
        raise


def _bytes_in_use(database: sqlite3.Connection) -> int:
    """Size of the pages that hold something; pages of removed results are used again."""
    pages, free, size = (
        int(database.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for an error of Python's module."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
