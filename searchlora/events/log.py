"""The log of events: searches, and what users did with their hits, in SQLite or PostgreSQL.

Several servers share a log. The id of a search is signed with the log's key, so that a click is known to belong to a
search of one of them before that search is on disk; whoever makes up an id is refused.
"""

from __future__ import annotations

import hmac
import json
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from searchlora.errors import DataError
from searchlora.events.database import Execute, open_database

#: What users do with a hit.
Action = Literal["click", "cart", "purchase", "grade"]
ACTIONS: tuple[str, ...] = get_args(Action)

#: Bytes of an id: microseconds since 1970, random ones, and a signature.
_TIME, _RANDOM, _SIGNATURE = 7, 5, 8

#: Share of the size limit that is left when the oldest searches are removed, so that not every minute removes some.
_AFTER_REMOVAL = 0.9

_DAY_S = 86_400

#: Rows of feedback on one search at most.
MAX_FEEDBACK = 1_000

#: The bytes of each table; a row of feedback has an id of a search and one of a document.
_SIZES = (
    "SELECT COALESCE(SUM(bytes), 0) FROM searches",
    "SELECT COALESCE(SUM(bytes), 0) FROM shadows",
    "SELECT COALESCE(SUM(LENGTH(document)), 0) + 120 * COUNT(*) FROM feedback",
)

#: The tables, without an index that slows down writing: rows are read in the order of their ids, which begin with the
#: time.
_TABLES = (
    "CREATE TABLE IF NOT EXISTS event_settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS searches (id TEXT PRIMARY KEY, bytes BIGINT NOT NULL, event TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS shadows (search TEXT NOT NULL, candidates TEXT NOT NULL, bytes BIGINT NOT NULL,"
    " event TEXT NOT NULL, PRIMARY KEY (search, candidates))",
    "CREATE TABLE IF NOT EXISTS feedback (search TEXT NOT NULL, action TEXT NOT NULL, document TEXT NOT NULL,"
    " rater TEXT NOT NULL, grade BIGINT, time BIGINT NOT NULL, PRIMARY KEY (search, action, document, rater))",
    "CREATE TABLE IF NOT EXISTS event_counts (day TEXT NOT NULL, name TEXT NOT NULL, n BIGINT NOT NULL,"
    " PRIMARY KEY (day, name))",
)


@dataclass(frozen=True)
class Feedback:
    """What a user did with a hit of a search."""

    search: str
    action: str
    document: str
    grade: int | None = None  # of the action `grade`; None otherwise
    rater: str = ""  # who graded; empty otherwise
    time: int = 0  # milliseconds since 1970


class EventLog:
    """Searches and feedback, in one database that several processes share. Thread-safe.

    Examples:
        >>> import tempfile
        >>> log = EventLog(tempfile.mkdtemp())
        >>> search = log.new_id()
        >>> log.write([{"id": search, "query": "red couch", "hits": ["P1", "P2"]}], [])
        []
        >>> click = Feedback(search, "click", "P2")
        >>> log.write([], [click, click])  # the second one is known already
        [True, False]
        >>> [(event["query"], [each.document for each in feedback]) for event, feedback in log.searches()]
        [('red couch', ['P2'])]
    """

    def __init__(
        self,
        place: str | Path,
        *,
        max_days: float | None = None,
        max_mb: float | None = None,
        create: bool = True,
    ) -> None:
        self._max_days, self._max_mb = max_days, max_mb
        self._database = open_database(place, create=create)
        self.where = self._database.where
        with self._database.transaction(alone=True) as execute:
            for table in _TABLES:
                execute(table)
            execute("INSERT INTO event_settings VALUES ('key', ?) ON CONFLICT DO NOTHING", [secrets.token_hex(32)])
        ((key,),) = self._database.rows("SELECT value FROM event_settings WHERE name = 'key'")
        self._key = bytes.fromhex(key)

    # Ids

    def new_id(self, now: float | None = None) -> str:
        """An id for a search of this moment: 40 hexadecimal digits, ordered by time."""
        body = _microseconds(now).to_bytes(_TIME) + secrets.token_bytes(_RANDOM)
        return (body + self._signature(body)).hex()

    def issued(self, search: str) -> float | None:
        """When an id was issued, in seconds since 1970; None for one that this log has not issued."""
        try:
            data = bytes.fromhex(search)
        except ValueError:
            return None
        if data.hex() != search:  # capitals and blanks would be another id of the same search
            return None
        body, signature = data[: _TIME + _RANDOM], data[_TIME + _RANDOM :]
        if len(body) < _TIME + _RANDOM or not hmac.compare_digest(signature, self._signature(body)):
            return None
        return int.from_bytes(body[:_TIME]) / 1e6

    def pseudonym(self, text: str) -> str:
        """What stands in the log for the name of a user or a session: the same for the same name, 16 digits."""
        return hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256").hex()[:16]

    def _signature(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")[:_SIGNATURE]

    # Writing

    def write(
        self,
        searches: Sequence[Mapping[str, Any]],
        feedback: Sequence[Feedback],
        counts: Mapping[str, int] | None = None,
    ) -> list[bool]:
        """Write events in one transaction; on return they are on disk."""
        now = time.time()
        new: list[bool] = []
        with self._database.transaction() as execute:
            for event in searches:
                text = json.dumps(event, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace").decode()
                table, row = "searches", [event.get("id")]
                if "shadow" in event:
                    table, row = "shadows", [event["shadow"], ", ".join(event["candidates"].values())]
                row += [len(text.encode()), text]
                marks = ", ".join("?" * len(row))
                execute(f"INSERT INTO {table} VALUES ({marks}) ON CONFLICT DO NOTHING", row)
            for each in feedback:
                known = execute("SELECT COUNT(*) FROM feedback WHERE search = ?", [each.search]).fetchone()
                if known[0] >= MAX_FEEDBACK:
                    new.append(False)
                    continue
                row = [each.search, each.action, each.document, each.rater, each.grade]
                done = execute(
                    "INSERT INTO feedback VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    [*row, each.time or int(1000 * now)],
                )
                new.append(done.rowcount == 1)
                if not new[-1] and each.action == "grade":
                    changed = execute(
                        "UPDATE feedback SET grade = ?, time = ? WHERE search = ? AND action = ? AND document = ?"
                        " AND rater = ? AND grade <> ?",
                        [each.grade, each.time or int(1000 * now), *row[:4], each.grade],
                    )
                    new[-1] = changed.rowcount == 1
            repeated = {"repeated feedback": new.count(False)}
            _count(execute, now, Counter(counts or {}) + Counter(repeated))
        return new

    def remove_old(self) -> int:
        """Remove the searches that are beyond the limits of age and size, with their feedback, and count them."""
        removed = 0
        if self._max_days is not None:
            removed += self._remove_before(_prefix(time.time() - self._max_days * _DAY_S))
        if self._max_mb is not None:
            limit = self._max_mb * 2**20
            used = sum(int(next(self._database.rows(statement))[0]) for statement in _SIZES)
            if used > limit:
                # Feedback and shadow searches go with their search.
                removed += self._remove_before(self._last_of_oldest(1 - _AFTER_REMOVAL * limit / used))
        return removed

    def _last_of_oldest(self, share: float) -> str:
        """The id before which the oldest searches take this share of the bytes of all."""
        ((whole,),) = self._database.rows("SELECT COALESCE(SUM(bytes), 0) FROM searches")
        size = share * int(whole)
        for id_, bytes_ in self._database.rows("SELECT id, bytes FROM searches ORDER BY id"):
            if size <= 0:
                return str(id_)
            size -= int(bytes_)
        return "g"  # after all digits

    def _remove_before(self, id_: str) -> int:
        with self._database.transaction() as execute:
            removed: int = execute("DELETE FROM searches WHERE id < ?", [id_]).rowcount
            execute("DELETE FROM feedback WHERE search < ?", [id_])
            execute("DELETE FROM shadows WHERE search < ?", [id_])
            _count(execute, time.time(), {"removed searches": removed})
        return removed

    # Reading

    def searches(
        self, since: float | None = None, until: float | None = None
    ) -> Iterator[tuple[dict[str, Any], list[Feedback]]]:
        """Each search with its feedback, oldest first."""
        feedback = self._feedback(since, until)
        waiting = next(feedback, None)
        for id_, text in self._rows("searches", "id", "id, event", since, until):
            while waiting is not None and waiting.search < id_:  # of a search that was dropped
                waiting = next(feedback, None)
            own = []
            while waiting is not None and waiting.search == id_:
                own.append(waiting)
                waiting = next(feedback, None)
            try:
                event = json.loads(text)
            except ValueError as error:
                raise DataError(f"the event is damaged ({error})", where=f"{self.where}, search {id_}") from None
            yield event, own

    def shadows(
        self, since: float | None = None, until: float | None = None
    ) -> Iterator[tuple[dict[str, Any], str, dict[str, Any]]]:
        """Each search with the versions that searched it again, and what they made of it, oldest first."""
        first, last = _period(since, until)
        statement = (
            "SELECT searches.event, shadows.candidates, shadows.event FROM shadows JOIN searches"
            " ON searches.id = shadows.search WHERE shadows.search >= ? AND shadows.search < ?"
            " ORDER BY shadows.search, shadows.candidates"
        )
        for event, candidates, shadow in self._database.rows(statement, [first, last]):
            yield json.loads(event), candidates, json.loads(shadow)

    def counts(self) -> dict[str, int]:
        """What was counted but not kept: name -> number, over all days."""
        rows = self._database.rows("SELECT name, SUM(n) FROM event_counts GROUP BY name ORDER BY name")
        return {str(name): int(n) for name, n in rows}

    def since_newest(self, n: int, since: float) -> float:
        """The time from which on there are about n searches, but not before `since`; both in seconds since 1970."""
        statement = "SELECT id FROM searches ORDER BY id DESC LIMIT 1 OFFSET ?"
        issued = [self.issued(str(id_)) or 0.0 for (id_,) in self._database.rows(statement, [n])]
        return max(since, *issued) if issued else since

    def close(self) -> None:
        """Close the log."""
        self._database.close()

    def _feedback(self, since: float | None, until: float | None) -> Iterator[Feedback]:
        columns = "search, action, document, grade, rater, time"
        for row in self._rows("feedback", "search", columns, since, until, ", time, action, document, rater"):
            yield Feedback(*row)

    def _rows(
        self, table: str, key: str, columns: str, since: float | None, until: float | None, then: str = ""
    ) -> Iterator[tuple[Any, ...]]:
        first, last = _period(since, until)
        statement = f"SELECT {columns} FROM {table} WHERE {key} >= ? AND {key} < ? ORDER BY {key}{then}"
        return self._database.rows(statement, [first, last])


def _count(execute: Execute, now: float, counts: Mapping[str, int]) -> None:
    day = datetime.fromtimestamp(now, UTC).date().isoformat()
    for name, n in counts.items():
        if n:
            execute(
                "INSERT INTO event_counts VALUES (?, ?, ?)"
                " ON CONFLICT (day, name) DO UPDATE SET n = event_counts.n + excluded.n",
                [day, name, n],
            )


def _microseconds(now: float | None) -> int:
    return int(1e6 * (time.time() if now is None else now))


def _period(since: float | None, until: float | None) -> tuple[str, str]:
    """From which id on, and before which."""
    return "" if since is None else _prefix(since), "g" if until is None else _prefix(until)  # "g" is after all digits


def _prefix(moment: float) -> str:
    """The beginning of the ids of a moment: all later ids are greater."""
    return max(0, _microseconds(moment)).to_bytes(_TIME).hex()
