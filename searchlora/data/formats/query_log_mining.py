"""Mining of query reformulations: the rules for one session, and the log on disk, sorted and counted by SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from tempfile import gettempdir

from searchlora.errors import DataError

#: Words that do not relate two queries.
COMMON_WORDS = frozenset({"and", "for", "from", "how", "the", "what", "with", "without"})
MIN_WORD_LENGTH = 3


@dataclass(frozen=True)
class Rules:
    """The thresholds of mining.

    Attributes:
        window: Maximum seconds between a failed query and the success it is paired with.
        min_clicks: Minimum clicks of a successful query.
        similarity: Minimum Jaccard similarity of letter triples for two queries without a common word to be related.
        min_users: Minimum users (sessions, if the log has no users) of a query.
        max_session: Maximum queries of a session; longer ones count as robots.
    """

    window: float = 600
    min_clicks: int = 1
    similarity: float = 0.3
    min_users: int = 3
    max_session: int = 200

    def describe(self) -> tuple[str, ...]:
        """The rules as sentences, for the dataset card."""
        return (
            "Personal data is masked before anything else: mail, card, order and phone numbers.",
            "Queries that differ only in case, punctuation or spacing are one query, written in its commonest way.",
            "The same query again and again in a session is one query, with all of its clicks.",
            f"A query with at least {self.min_clicks} click(s) succeeded, any other failed.",
            f"A success is paired with every failed query before it, back to the success before and at most "
            f"{self.window:g} seconds, that shares with it a word of {MIN_WORD_LENGTH} letters or more, or "
            f"{self.similarity:g} of their letter triples.",
            "A success without such a failed query succeeded at once: a pass-through row.",
            f"Sessions of more than {self.max_session} queries are left out.",
            f"Queries of fewer than {self.min_users} users are left out, on either side.",
            "Of several rewrites of one query, itself included, the one seen in most sessions is kept.",
        )


@dataclass(frozen=True, slots=True)
class Event:
    """A query of a session: `time` in seconds, the normalised `query`, and its number of `clicks`."""

    time: float
    query: str
    clicks: int


def mine(events: Sequence[Event], rules: Rules) -> Iterator[tuple[str, str]]:
    """Pairs of a query and its rewrite from one session in time order.

    A query that succeeds at once is its own rewrite.

    Examples:
        >>> list(mine([Event(0, "red kicks", 0), Event(20, "red shoes", 1)], Rules()))
        [('red kicks', 'red shoes')]
    """
    failed: list[Event] = []
    for event in _merged(events):
        if event.clicks < rules.min_clicks:
            failed.append(event)
            continue
        before = [
            earlier.query
            for earlier in failed
            if event.time - earlier.time <= rules.window and related(earlier.query, event.query, rules.similarity)
        ]
        yield from ((query, event.query) for query in dict.fromkeys(before or [event.query]))
        failed.clear()


def related(one: str, other: str, similarity: float) -> bool:
    """Whether two normalised queries share a word, or letter triples with at least this Jaccard similarity."""
    if any(len(word) >= MIN_WORD_LENGTH and word not in COMMON_WORDS for word in {*one.split()} & {*other.split()}):
        return True
    first, second = _triples(one), _triples(other)
    return len(first & second) >= similarity * len(first | second)


def _triples(text: str) -> set[str]:
    padded = f"  {text} "
    return {padded[start : start + 3] for start in range(len(padded) - 2)}


def _merged(events: Sequence[Event]) -> Iterator[Event]:
    pending: Event | None = None
    for event in events:
        if pending is not None and pending.query == event.query:
            pending = Event(pending.time, pending.query, pending.clicks + event.clicks)
            continue
        if pending is not None:
            yield pending
        pending = event
    if pending is not None:
        yield pending


_CACHE_KIB = 65536

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
CREATE TABLE log (session TEXT, time REAL, query TEXT, typed TEXT, clicks INTEGER, user TEXT, place TEXT);
CREATE TABLE pair (query TEXT, rewrite TEXT, session TEXT);
CREATE TABLE click (query TEXT, document TEXT, session TEXT);
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
SELECT one.typed, other.typed, best.rewrite, one.place FROM (
    SELECT query, rewrite, ROW_NUMBER() OVER (
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
    """A query log in SQLite, then the pairs mined from it; memory does not grow with the log."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.executescript(f"PRAGMA cache_size = -{_CACHE_KIB};{_TABLES}")

    def add(self, rows: Iterable[LogRow]) -> None:
        """Store rows of the log."""
        self._database.executemany("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def add_clicks(self, clicks: Iterable[tuple[str, str, str]]) -> None:
        """Store clicked documents as normalised query, document, session."""
        self._database.executemany("INSERT INTO click VALUES (?, ?, ?)", clicks)

    def clicked(self, query: str, minimum: int) -> list[str]:
        """The documents that at least `minimum` sessions clicked after a normalised query, sorted."""
        self._database.execute("CREATE INDEX IF NOT EXISTS click_of_query ON click (query)")
        rows = self._database.execute(
            "SELECT document FROM click WHERE query = ? GROUP BY document HAVING COUNT(DISTINCT session) >= ? "
            "ORDER BY document",
            (query, minimum),
        )
        return [document for (document,) in rows]

    def sessions(self) -> Iterator[tuple[str, list[Event]]]:
        """Sessions with their events in time order; equal times keep file order."""
        rows = self._database.execute("SELECT session, time, query, clicks FROM log ORDER BY session, time, rowid")
        for session, events in groupby(rows, key=lambda row: row[0]):
            yield session, [Event(*event[1:]) for event in events]

    def add_pairs(self, pairs: Iterable[tuple[str, str, str]]) -> None:
        """Store mined pairs as query, rewrite, session."""
        self._database.executemany("INSERT INTO pair VALUES (?, ?, ?)", pairs)

    def select_known(self, min_users: int) -> None:
        """Select the queries issued by at least `min_users` users. Call it before `best_pairs`."""
        self._database.executescript(_KNOWN.format(min_users=int(min_users)))

    def best_pairs(self) -> Iterator[tuple[str, str, str, str]]:
        """The rewrite of each query: query, rewrite, the normalised rewrite, and the query's place."""
        yield from self._database.execute(_BEST)

    def count(self, name: str) -> int:
        """A number for the dataset card; `name` is one of `COUNTS`."""
        number: int = self._database.execute(COUNTS[name]).fetchone()[0]
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
    """An empty store in an unnamed temporary file, which the system removes even if the process is killed.

    Raises:
        DataError: if the disk is full.
    """
    try:
        # An empty name is a private database on disk that SQLite unlinks as soon as it opens it.
        with closing(sqlite3.connect("", isolation_level=None)) as database:
            yield LogStore(database)
    except sqlite3.OperationalError as error:
        raise DataError(
            f"the log cannot be sorted on disk ({error})",
            where=gettempdir(),
            fix="Free some space there, or set TMPDIR to another folder for temporary files.",
        ) from None
