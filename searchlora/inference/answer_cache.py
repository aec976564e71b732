"""Cache of an engine's answers on disk, by request and by all that its answers depend on besides the request.

The file holds up to a limit of bytes; beyond it, the answers that were used least recently are evicted.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from searchlora.errors import DataError, UsageError
from searchlora.inference.engine import Completion, Scored
from searchlora.inference.metered import Answer
from searchlora.prompts import RENDERING

#: Seconds that a process waits while another one writes.
_PATIENCE = 60.0

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
        DataError: if the file cannot be opened or is no cache.
        UsageError: for a limit below 1.
    """

    def __init__(self, file: Path, max_bytes: int = MAX_BYTES) -> None:
        if max_bytes < 1:
            raise UsageError(f"a cache of {max_bytes} bytes holds nothing", fix="Give at least 1.")
        self.file = file
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._read: dict[bytes, None] = {}  # in the order of their last use, not yet noted
        with self._checked():
            file.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(file, timeout=_PATIENCE, check_same_thread=False, isolation_level=None)
            with self._changing():
                self._make_tables()

    def answers(self, scope: Mapping[str, Any]) -> CachedAnswers:
        """The answers in one scope: the engine, its base, and the weights of the adapter, as JSON."""
        return CachedAnswers(self, json.dumps([RENDERING, scope], sort_keys=True))

    def read(self, key: bytes) -> Answer | None:
        """The answer of a key; None if there is none. Raises `DataError`."""
        with self._checked(), self._lock:
            row = self._database.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            self._read.pop(key, None)
            self._read[key] = None
            if len(self._read) >= _NOTED:
                with self._changing():
                    self._note_reads()
        return _from_json(row[0])

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

    def _make_tables(self) -> None:
        """The tables of a new file; one of an earlier release gets what it lacks."""
        execute = self._database.execute
        execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer TEXT NOT NULL)")
        if "used" not in [column[1] for column in execute("PRAGMA table_info(answers)")]:
            execute("ALTER TABLE answers ADD COLUMN used INTEGER NOT NULL DEFAULT 0")
        execute("CREATE INDEX IF NOT EXISTS by_use ON answers (used)")
        if execute("SELECT 1 FROM sqlite_master WHERE name = 'size'").fetchone() is not None:
            return
        stored = "length({0}.key) + length(CAST({0}.answer AS BLOB))"
        execute("CREATE TABLE size (bytes INTEGER NOT NULL)")
        execute(f"INSERT INTO size SELECT COALESCE(SUM({stored.format('answers')}), 0) FROM answers")
        for event, change in {
            "INSERT": f"+ {stored.format('new')}",
            "DELETE": f"- ({stored.format('old')})",
            "UPDATE OF answer": f"+ {stored.format('new')} - ({stored.format('old')})",
        }.items():
            name = event.split()[0].lower()
            execute(
                f"CREATE TRIGGER on_{name} AFTER {event} ON answers BEGIN UPDATE size SET bytes = bytes {change}; END"
            )

    def _note_reads(self) -> int:
        """Write when answers were used that were read; returns the next number of a use."""
        used = int(self._database.execute("SELECT COALESCE(MAX(used), 0) + 1 FROM answers").fetchone()[0])
        rows = [(used + number, key) for number, key in enumerate(self._read)]
        self._database.executemany("UPDATE answers SET used = ? WHERE key = ?", rows)
        self._read.clear()
        return used + len(rows)

    def _evict(self) -> None:
        if self._size() <= self.max_bytes:
            return
        while self._size() > _KEPT * self.max_bytes:
            some = "SELECT key FROM answers ORDER BY used LIMIT MAX(1, (SELECT COUNT(*) FROM answers) / 20)"
            self._database.execute(f"DELETE FROM answers WHERE key IN ({some})")

    def _size(self) -> int:
        return int(self._database.execute("SELECT bytes FROM size").fetchone()[0])

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
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise DataError(
                f"cannot be used as a cache ({error})",
                where=str(self.file),
                fix="Delete the file, or name another one.",
            ) from None


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


def _from_json(text: str) -> Answer:
    """Raises `ValueError` or `TypeError` for a text that is no answer."""
    ((kind, values),) = json.loads(text).items()
    if kind == "completion":
        return Completion(**values)
    return Scored(tuple(values["log_probabilities"]), values["prompt_tokens"], values["scored_tokens"])
