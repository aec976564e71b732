"""Cache of an engine's answers on disk, by request and by all that its answers depend on besides the request."""

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

from searchlora.errors import DataError
from searchlora.inference.engine import Completion, Scored
from searchlora.inference.metered import Answer
from searchlora.prompts import RENDERING

#: Seconds that a process waits while another one writes.
_PATIENCE = 60.0


class AnswerCache:
    """A file with the answers of engines, for several processes at a time. It is never evicted; delete it at will.

    Args:
        file: An SQLite file, made if it is missing.

    Raises:
        DataError: if the file cannot be opened or is no cache.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()
        with self._checked():
            file.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(file, timeout=_PATIENCE, check_same_thread=False)
            self._database.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer TEXT NOT NULL)")
            self._database.commit()

    def answers(self, scope: Mapping[str, Any]) -> CachedAnswers:
        """The answers in one scope: the engine, its base, and the weights of the adapter, as JSON."""
        return CachedAnswers(self, json.dumps([RENDERING, scope], sort_keys=True))

    def read(self, key: bytes) -> Answer | None:
        """The answer of a key; None if there is none. Raises `DataError`."""
        with self._checked(), self._lock:
            row = self._database.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return _from_json(row[0]) if row is not None else None

    def write(self, answers: Mapping[bytes, Answer]) -> None:
        """Add answers, all or none. Raises `DataError`."""
        rows = [(key, _to_json(answer)) for key, answer in answers.items()]
        with self._checked(), self._lock, self._database:
            self._database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)

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
