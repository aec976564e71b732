"""A query log on disk, sorted and counted by SQLite, so that a log of any size takes the same memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

from searchlora.data.formats.sessions import Event
from searchlora.errors import DataError

CACHE_KIB = 65536

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
CREATE TABLE log (session TEXT, time REAL, query TEXT, typed TEXT, clicks INTEGER, user TEXT, place TEXT);
CREATE TABLE pair (query TEXT, rewrite TEXT, session TEXT);
"""

_KNOWN = """
CREATE TABLE known (query TEXT PRIMARY KEY, typed TEXT, place TEXT) WITHOUT ROWID;
INSERT INTO known
SELECT query, typed, place FROM (
    SELECT query, typed, MIN(rowid) AS first, place,
           ROW_NUMBER() OVER (PARTITION BY query ORDER BY COUNT(*) DESC, MIN(rowid)) AS rank
    FROM log GROUP BY query, typed
)
WHERE rank = 1 AND query IN (SELECT query FROM log GROUP BY query HAVING COUNT(DISTINCT user) >= {min_users});
"""

_CANDIDATES = "SELECT query, rewrite, COUNT(DISTINCT session) AS sessions FROM pair GROUP BY query, rewrite"

_BEST = f"""
SELECT one.typed, other.typed, best.rewrite, best.sessions, one.place FROM (
    SELECT query, rewrite, sessions, ROW_NUMBER() OVER (
        PARTITION BY query ORDER BY sessions DESC, query = rewrite DESC, rewrite
    ) AS rank
    FROM ({_CANDIDATES}) WHERE query IN (SELECT query FROM known) AND rewrite IN (SELECT query FROM known)
) AS best
JOIN known AS one ON one.query = best.query JOIN known AS other ON other.query = best.rewrite
WHERE rank = 1 ORDER BY best.query
"""

#: Session, time in seconds, normalised query, query as typed, clicks, user, place in the source.
LogRow = tuple[str, float, str, str, int, str, str]


class LogStore:
    """The log, then the pairs mined from it."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.executescript(f"PRAGMA cache_size = -{CACHE_KIB};{_TABLES}")

    def add(self, rows: Iterable[LogRow]) -> None:
        """Store rows of the log, as they come."""
        self._database.executemany("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def sessions(self) -> Iterator[tuple[str, list[Event]]]:
        """Sessions with their events in order of time, equal times in order of the file."""
        rows = self._database.execute("SELECT session, time, query, clicks FROM log ORDER BY session, time, rowid")
        for session, events in groupby(rows, key=lambda row: row[0]):
            yield session, [Event(*event[1:]) for event in events]

    def add_pairs(self, pairs: Iterable[tuple[str, str, str]]) -> None:
        """Store mined pairs as query, rewrite, session."""
        self._database.executemany("INSERT INTO pair VALUES (?, ?, ?)", pairs)

    def choose(self, min_users: int) -> None:
        """Find out which queries enough users have issued. Comes before `best`."""
        self._database.executescript(_KNOWN.format(min_users=int(min_users)))

    def best(self) -> Iterator[tuple[str, str, str, int, str]]:
        """The rewrite kept for each query: query, rewrite, the normalised rewrite, its sessions, the query's place."""
        yield from self._database.execute(_BEST)

    def count(self, what: str) -> int:
        """A number for the card: one of `COUNTS`."""
        number: int = self._database.execute(COUNTS[what]).fetchone()[0]
        return number


COUNTS = {
    "distinct queries": "SELECT COUNT(DISTINCT query) FROM log",
    "queries of enough users": "SELECT COUNT(*) FROM known",
    "distinct pairs mined": f"SELECT COUNT(*) FROM ({_CANDIDATES})",
    "of these left out for too few users": f"SELECT COUNT(*) FROM ({_CANDIDATES}) WHERE query NOT IN "
    "(SELECT query FROM known) OR rewrite NOT IN (SELECT query FROM known)",
}


@contextmanager
def log_store() -> Iterator[LogStore]:
    """An empty store in a temporary folder that goes away with it.

    Raises:
        DataError: when the disk is full.
    """
    with TemporaryDirectory(prefix="searchlora-log-") as folder:
        try:
            with closing(sqlite3.connect(Path(folder) / "log.sqlite", isolation_level=None)) as database:
                yield LogStore(database)
        except sqlite3.OperationalError as error:
            raise DataError(
                f"the log cannot be sorted on disk ({error})",
                where=folder,
                fix="Free some space there, or name another folder for temporary files by the variable TMPDIR.",
            ) from None
