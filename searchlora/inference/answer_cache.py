"""Cache of an engine's answers on disk, by request and by all that its answers depend on besides the request."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from searchlora.files.result_cache import SCHEMA, ResultCache, transaction
from searchlora.inference.engine import ChoiceScores, Completion
from searchlora.inference.metered import Answer
from searchlora.prompts import RENDERING

#: Size of a cache unless its maker says otherwise: about three million short answers.
MAX_BYTES = 1 << 30


class AnswerCache(ResultCache):
    """A file with the answers of engines, for several processes at a time. It may be deleted at any time.

    Args:
        file: The file, made if it is missing; one that is not a cache is refused, since a user named it.
        max_bytes: Size of the file; the answers that were used least recently are removed.

    Raises:
        DataError, UsageError: as `ResultCache`.
    """

    def __init__(self, file: Path, max_bytes: int = MAX_BYTES) -> None:
        _convert_earlier(file)
        super().__init__(file, max_bytes=max_bytes, refuse_foreign=True)

    def answers(self, scope: Mapping[str, Any]) -> CachedAnswers:
        """The answers in one scope: the engine, its base, and the weights of the adapter, as JSON."""
        return CachedAnswers(self, json.dumps([RENDERING, scope], sort_keys=True))


class CachedAnswers:
    """Hash of a request -> its answer, in one scope of a cache."""

    def __init__(self, cache: ResultCache, scope: str) -> None:
        self._cache = cache
        self._scope = scope.encode()

    def get(self, key: bytes) -> Answer | None:
        """The answer to a request; None if it is unknown, or what is stored is not an answer."""
        try:
            entry = _Entry.model_validate(self._cache.get(self._key(key)))
        except ValidationError:
            return None
        if entry.completion is not None:
            return Completion(**entry.completion.model_dump())
        return ChoiceScores(**entry.scored.model_dump()) if entry.scored is not None else None

    def update(self, answers: Mapping[bytes, Answer]) -> None:
        """Add answers in one transaction."""
        self._cache.put_all({self._key(key): _to_json(answer) for key, answer in answers.items()})

    def _key(self, key: bytes) -> str:
        return hashlib.sha256(self._scope + b"\0" + key).hexdigest()


def _to_json(answer: Answer) -> dict[str, Any]:
    values = asdict(answer)
    if isinstance(answer, Completion):
        del values["logprobs"]  # stages do not ask for them
        return {"completion": values}
    return {"scored": values}


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


#: Names of all that a file of an earlier release holds.
_EARLIER = {"answers", "by_use", "size", "on_insert", "on_delete", "on_update"}
_EARLIER_TABLE = "CREATE TABLE answers (key BLOB PRIMARY KEY, answer TEXT NOT NULL"


def _convert_earlier(file: Path) -> None:
    """Move the answers of a file of an earlier release into the table of a `ResultCache`: all or none."""
    if not file.is_file():
        return
    with suppress(sqlite3.Error), closing(sqlite3.connect(file, isolation_level=None)) as database:
        schema = {name: (kind, sql) for name, kind, sql in database.execute(_NAMES)}
        kind, sql = schema.get("answers", ("", ""))
        if kind != "table" or not sql.startswith(_EARLIER_TABLE) or not schema.keys() <= _EARLIER:
            return
        with transaction(database):
            for name in schema.keys() - {"answers"}:  # its triggers and its index before the table of sizes
                database.execute(f"DROP {schema[name][0]} IF EXISTS {name}")
            for statement in SCHEMA.values():
                database.execute(statement)
            database.execute("INSERT INTO results SELECT lower(hex(key)), CAST(answer AS TEXT), '', 0 FROM answers")
            database.execute("DROP TABLE answers")


_NAMES = "SELECT name, type, sql FROM sqlite_master WHERE sql IS NOT NULL"
