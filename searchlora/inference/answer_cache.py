"""Cache of an engine's answers on disk, by request and by all that its answers depend on besides the request.

The file holds up to a limit of bytes; beyond it, the answers that were used least recently are evicted. What somebody
else wrote into the file is not believed: another schema is refused, an entry that is no answer is computed again, and
no statement runs for ever.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from searchlora.errors import DataError, UsageError
from searchlora.files import parse_json
from searchlora.inference.engine import ChoiceScores, Completion
from searchlora.inference.metered import Answer
from searchlora.prompts import RENDERING

#: Seconds that a process waits while another one writes.
_PATIENCE = 60.0

#: Seconds after which a statement is interrupted, and steps of SQLite's machine between two looks at the clock.
_SLOWEST, _STEPS = 300.0, 1_000_000

#: Numbers of uses are counted again from 1 before they exceed SQLite's integers.
_MOST_USES = 1 << 62

#: Size of a cache unless its maker says otherwise: about three million short answers.
MAX_BYTES = 1 << 30

#: Reads that are noted together, since noting one writes to the file.
_NOTED = 256

#: Share of the limit that an eviction leaves, so that not every write evicts.
_KEPT = 0.9


class AnswerCache:
    """A file with the answers of engines, for several processes at a time. It may be deleted at any time.

    Where an insertion would exceed the limit, the answers used least recently are removed in the same transaction. When
    an answer was used is noted with the next insertion, or after 256 reads.

    Args:
        file: An SQLite file, made if it is missing.
        max_bytes: Size of the answers in the file, with their keys; the file itself grows by what one insertion holds
            beyond it, and never shrinks.

    Raises:
        DataError: if the file cannot be opened, is no cache, or has other tables or triggers than a cache.
        UsageError: for a limit below 1.
    """

    def __init__(self, file: Path, max_bytes: int = MAX_BYTES) -> None:
        if max_bytes < 1:
            raise UsageError(f"a cache of {max_bytes} bytes holds nothing", fix="Give at least 1.")
        self.file = file
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._deadline = 0.0
        self._read: dict[bytes, None] = {}  # in the order of their last use, not yet noted
        with self._checked():
            file.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(file, timeout=_PATIENCE, check_same_thread=False, isolation_level=None)
            self._database.set_progress_handler(lambda: time.monotonic() > self._deadline, _STEPS)
            with self._changing():
                self._check_schema()
                _make_tables(self._database)

    def answers(self, scope: Mapping[str, Any]) -> CachedAnswers:
        """The answers in one scope: the engine, its base, and the weights of the adapter, as JSON."""
        return CachedAnswers(self, json.dumps([RENDERING, scope], sort_keys=True))

    def read(self, key: bytes) -> Answer | None:
        """The answer of a key; None if there is none that can be read. Raises `DataError`."""
        with self._checked(), self._lock:
            chosen = "SELECT CAST(answer AS BLOB) FROM answers WHERE key = ?"
            row = self._database.execute(chosen, (key,)).fetchone()
            if row is None or (answer := _from_json(row[0])) is None:
                return None
            self._read.pop(key, None)
            self._read[key] = None
            if len(self._read) >= _NOTED:
                with self._changing():
                    self._note_reads()
        return answer

    def write(self, answers: Mapping[bytes, Answer]) -> None:
        """Add answers, all or none, and evict what is too much. Raises `DataError`."""
        rows = [(key, _to_json(answer)) for key, answer in answers.items()]
        with self._checked(), self._lock, self._changing():
            used = self._note_reads()
            self._database.executemany(
                "INSERT INTO answers (key, answer, used) VALUES (?, ?, ?)"
                " ON CONFLICT (key) DO UPDATE SET answer = excluded.answer, used = excluded.used",
                [(key, text, used + number) for number, (key, text) in enumerate(rows)],
            )
            self._evict()

    @property
    def bytes(self) -> int:
        """Size of the answers in the file, with their keys."""
        with self._checked(), self._lock:
            return self._size()

    def _note_reads(self) -> int:
        """Write when answers were used that were read; returns the next number of a use."""
        last = self._database.execute("SELECT COALESCE(MAX(used), 0) FROM answers").fetchone()[0]
        if not isinstance(last, int) or not 0 <= last < _MOST_USES:
            self._database.execute("UPDATE answers SET used = 0")
            last = 0
        used = last + 1
        rows = [(used + number, key) for number, key in enumerate(self._read)]
        self._database.executemany("UPDATE answers SET used = ? WHERE key = ?", rows)
        self._read.clear()
        return used + len(rows)

    def _evict(self) -> None:
        if self._size() <= self.max_bytes:
            return
        while self._size() > _KEPT * self.max_bytes:
            some = "SELECT rowid FROM answers ORDER BY used LIMIT MAX(1, (SELECT COUNT(*) FROM answers) / 20)"
            if not self._database.execute(f"DELETE FROM answers WHERE rowid IN ({some})").rowcount:
                self._count_again()  # nothing is left, and the noted size is wrong

    def _size(self) -> int:
        rows = self._database.execute("SELECT bytes FROM size").fetchall()
        if len(rows) == 1 and isinstance(rows[0][0], int) and rows[0][0] >= 0:
            return int(rows[0][0])
        return self._count_again()

    def _count_again(self) -> int:
        self._database.execute("DELETE FROM size")
        self._database.execute(_COUNT)
        return int(self._database.execute("SELECT bytes FROM size").fetchone()[0])

    def _check_schema(self) -> None:
        """Refuse tables and triggers that are not those of a cache; they could change what every statement does."""
        new = sqlite3.connect(":memory:")
        _make_tables(new)
        expected = {*new.execute(_SCHEMA), *_EARLIER_SCHEMA}
        new.close()
        other = [str(name) for kind, name, sql in self._database.execute(_SCHEMA) if (kind, name, sql) not in expected]
        if other:
            raise sqlite3.DatabaseError(f"it has {other[0][:80]!r}, which no cache has")

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """A transaction, which other processes wait for; an error undoes it."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._database.in_transaction:  # a full disk has undone it already
                self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def __len__(self) -> int:
        with self._checked(), self._lock:
            return int(self._database.execute("SELECT COUNT(*) FROM answers").fetchone()[0])

    @contextmanager
    def _checked(self) -> Iterator[None]:
        self._deadline = time.monotonic() + _SLOWEST
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise DataError(
                f"cannot be used as a cache ({error})",
                where=str(self.file),
                fix="Delete the file, or name another one.",
            ) from None


_STORED = "length({0}.key) + length(CAST({0}.answer AS BLOB))"
_COUNT = f"INSERT INTO size SELECT COALESCE(SUM({_STORED.format('answers')}), 0) FROM answers"
_SCHEMA = "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"

#: What files of earlier releases have.
_EARLIER_SCHEMA = (("table", "answers", "CREATE TABLE answers (key BLOB PRIMARY KEY, answer TEXT NOT NULL)"),)


def _make_tables(database: sqlite3.Connection) -> None:
    """The tables of a new file; one of an earlier release gets what it lacks."""
    execute = database.execute
    execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer TEXT NOT NULL)")
    if "used" not in [column[1] for column in execute("PRAGMA table_info(answers)")]:
        execute("ALTER TABLE answers ADD COLUMN used INTEGER NOT NULL DEFAULT 0")
    execute("CREATE INDEX IF NOT EXISTS by_use ON answers (used)")
    if execute("SELECT 1 FROM sqlite_master WHERE name = 'size'").fetchone() is None:
        execute("CREATE TABLE size (bytes INTEGER NOT NULL)")
        execute(_COUNT)
    for event, change in {
        "INSERT": f"+ {_STORED.format('new')}",
        "DELETE": f"- ({_STORED.format('old')})",
        "UPDATE OF answer": f"+ {_STORED.format('new')} - ({_STORED.format('old')})",
    }.items():
        name = event.split()[0].lower()
        execute(
            f"CREATE TRIGGER IF NOT EXISTS on_{name} AFTER {event} ON answers"
            f" BEGIN UPDATE size SET bytes = bytes {change}; END"
        )


class CachedAnswers(MutableMapping[bytes, Answer]):
    """Hash of a request -> its answer, in one scope of a cache; for `MeteredEngine`."""

    def __init__(self, cache: AnswerCache, scope: str) -> None:
        self._cache = cache
        self._scope = scope.encode()

    def __getitem__(self, key: bytes) -> Answer:
        if (answer := self._cache.read(self._key(key))) is None:
            raise KeyError(key)
        return answer

    def __setitem__(self, key: bytes, answer: Answer) -> None:
        self._cache.write({self._key(key): answer})

    def update(self, answers: Mapping[bytes, Answer]) -> None:  # type: ignore[override]
        """Add answers in one transaction."""
        self._cache.write({self._key(key): answer for key, answer in answers.items()})

    def __delitem__(self, key: bytes) -> None:
        raise TypeError("answers are not removed one by one")

    def __iter__(self) -> Iterator[bytes]:
        raise TypeError("answers are found by their request only")

    def __len__(self) -> int:
        return len(self._cache)

    def _key(self, key: bytes) -> bytes:
        return hashlib.sha256(self._scope + b"\0" + key).digest()


def _to_json(answer: Answer) -> str:
    values = asdict(answer)
    if isinstance(answer, Completion):
        del values["logprobs"]  # stages do not ask for them
        return json.dumps({"completion": values})
    return json.dumps({"scored": values})


def _from_json(content: bytes | None) -> Answer | None:
    """The answer in a stored value; None if it is no answer."""
    try:
        entry = _Entry.model_validate(parse_json((content or b"").decode("utf-8")))
    except (ValueError, ValidationError):
        return None
    if (completion := entry.completion) is not None:
        return Completion(**completion.model_dump())
    return ChoiceScores(**entry.scored.model_dump()) if entry.scored is not None else None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


_Tokens = Annotated[int, Field(ge=0)]


class _Completion(_Strict):
    text: str
    finish: Literal["stop", "length"]
    prompt_tokens: _Tokens
    completion_tokens: _Tokens


class _Scored(_Strict):
    log_probabilities: Annotated[tuple[float, ...], Field(strict=False)]
    prompt_tokens: _Tokens
    scored_tokens: _Tokens


class _Entry(_Strict):
    completion: _Completion | None = None
    scored: _Scored | None = None
