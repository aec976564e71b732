"""Cache of an engine's answers on disk, by request and by all that its answers depend on besides the request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from searchlora.files.result_cache import ResultCache
from searchlora.inference.engine import ChoiceScores, Completion
from searchlora.inference.metered import Answer
from searchlora.prompts import RENDERING

#: Size of a cache unless its maker says otherwise: about three million short answers.
MAX_BYTES = 1 << 30


#: How an answer is stored: the name of its kind, with its fields.
_KINDS: Mapping[str, TypeAdapter[Any]] = {"completion": TypeAdapter(Completion), "scored": TypeAdapter(ChoiceScores)}


class AnswerCache(ResultCache):
    """A file with the answers of engines, for several processes at a time. It may be deleted at any time."""

    def __init__(self, file: Path, max_bytes: int = MAX_BYTES) -> None:
        super().__init__(file, max_bytes=max_bytes, refuse_foreign=True)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the file itself."""
        return AnswerCache, (self.file, self.max_bytes)

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
        stored = self._cache.get(self._key(key))
        for kind, fields in _KINDS.items():
            if isinstance(stored, dict) and stored.keys() == {kind}:
                with suppress(ValidationError):
                    answer: Answer = fields.validate_python(stored[kind])
                    return answer
        return None

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
