"""An engine that counts the tokens of its requests, answers known requests from a cache, and tells what was asked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, TypeVar

from searchlora.inference.engine import ChoiceScores, Completion, Engine, Request

Answer: TypeAlias = Completion | ChoiceScores


class Answers(Protocol):
    """Hash of a request -> its answer: a dictionary or a cache on disk."""

    def get(self, key: bytes, /) -> Answer | None: ...

    def update(self, answers: Mapping[bytes, Answer], /) -> None: ...


_Answer = TypeVar("_Answer", Completion, ChoiceScores)


@dataclass(frozen=True)
class Exchange:
    """A request to an engine (without choices: for generation) and its answer; `known`: from an earlier call."""

    request: Request
    answer: Answer
    choices: tuple[str, ...] = ()
    known: bool = False


#: A request with the choices that are scored, none for generation.
_Asked: TypeAlias = tuple[Request, tuple[str, ...]]


class MeteredEngine:
    """An engine that counts tokens and answers equal requests once."""

    def __init__(
        self,
        engine: Engine,
        answers: Answers | None = None,
        listener: Callable[[Exchange], None] | None = None,
        ahead: Collection[bytes] = (),
    ) -> None:
        self.engine = engine
        self.prompt_tokens = self.output_tokens = self.reused = self.uncounted = 0
        self._answers = answers
        self._listener = listener
        self._ahead = ahead
        self._own = set(ahead)

    def heard_by(self, listener: Callable[[Exchange], None]) -> MeteredEngine:
        """The same engine with the same answers, and a listener; its tokens are counted on their own."""
        return MeteredEngine(self.engine, self._answers, listener, self._ahead)

    def asking(self, engine: Engine) -> MeteredEngine:
        """Another engine with the same answers, for one that computes the same, such as for one caller of a server."""
        return MeteredEngine(engine, self._answers, self._listener, self._ahead)

    @property
    def engine_id(self) -> str:
        return self.engine.engine_id

    @property
    def call_size(self) -> int:
        return self.engine.call_size

    def pin(self, adapter: str) -> str:
        return self.engine.pin(adapter)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return self._answered(
            [(request, ()) for request in requests],
            Completion,
            lambda request, _: request_key(request),
            lambda new: self.engine.generate([request for request, _ in new]),
        )

    def score(
        self, requests: Sequence[Request], choices: Sequence[Sequence[str]], *, prune_margin: float | None = None
    ) -> list[ChoiceScores]:
        return self._answered(
            [(request, tuple(texts)) for request, texts in zip(requests, choices, strict=True)],
            ChoiceScores,
            lambda request, texts: request_key(request, texts, prune_margin),
            lambda new: self.engine.score(
                [request for request, _ in new], [texts for _, texts in new], prune_margin=prune_margin
            ),
        )

    def _answered(
        self,
        asked: Sequence[_Asked],
        kind: type[_Answer],
        key_of: Callable[[Request, tuple[str, ...]], bytes],
        compute: Callable[[Sequence[_Asked]], list[_Answer]],
    ) -> list[_Answer]:
        if self._answers is None:
            known, answers = [False] * len(asked), compute(asked)
        else:
            keys = [key_of(*one) for one in asked]
            first: dict[bytes, _Asked] = {}
            for key, one in zip(keys, asked, strict=True):
                first.setdefault(key, one)
            by_key: dict[bytes, _Answer] = {}
            for key, (_, texts) in first.items():
                earlier = self._answers.get(key)
                if isinstance(earlier, kind) and _count(earlier) == len(texts):
                    by_key[key] = earlier
            known = [key in by_key and key not in self._own for key in keys]
            new = [key for key in first if key not in by_key]
            if new:
                computed = dict(zip(new, compute([first[key] for key in new]), strict=True))
                self._answers.update(computed)
                by_key.update(computed)
                self._own.update(new)
            answers = [by_key[key] for key in keys]
        self.reused += sum(known)
        for (request, texts), answer, is_known in zip(asked, answers, known, strict=True):
            self.prompt_tokens += answer.prompt_tokens
            self.uncounted += not answer.counted
            self.output_tokens += answer.completion_tokens if isinstance(answer, Completion) else answer.scored_tokens
            if self._listener is not None:
                self._listener(Exchange(request, answer, texts, is_known))
        return answers


def _count(answer: Answer) -> int:
    return len(answer.log_probabilities) if isinstance(answer, ChoiceScores) else 0


def request_key(request: Request, *more: Hashable) -> bytes:
    """Hash of all that an answer of an engine depends on; `keep_prefix` is a hint."""
    return hashlib.sha256(repr((replace(request, keep_prefix=False), *more)).encode("utf-8", "surrogatepass")).digest()
