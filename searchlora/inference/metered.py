"""An engine that counts the tokens of its requests, answers known requests from a cache, and tells what was asked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Hashable, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from searchlora.inference.engine import ChoiceScores, Completion, Engine, Request

Answer: TypeAlias = Completion | ChoiceScores

#: Hash of a request -> its answer, see `MeteredEngine`.
Answers: TypeAlias = MutableMapping[bytes, Answer]

_Answer = TypeVar("_Answer", Completion, ChoiceScores)


@dataclass(frozen=True)
class Exchange:
    """A request to an engine, and its answer.

    Attributes:
        choices: The scored choices; empty for generation.
        known: Whether an earlier call had the same request, so that nothing was computed.
    """

    request: Request
    answer: Answer
    choices: tuple[str, ...] = ()
    known: bool = False


class MeteredEngine:
    """An engine that counts tokens and answers equal requests once.

    Args:
        engine: Answers; its answers depend on the request alone.
        answers: Answers to earlier requests of the same engine; new ones are added. None: every request is computed.
        listener: Called with each request and its answer, in order.
        ahead: Keys of the answers that were computed ahead for requests of this engine: they do not count as known.

    Attributes:
        prompt_tokens, output_tokens: Of all requests.
        reused: Number of requests whose answer was there before.
    """

    def __init__(
        self,
        engine: Engine,
        answers: Answers | None = None,
        listener: Callable[[Exchange], None] | None = None,
        ahead: Collection[bytes] = (),
    ) -> None:
        self.engine = engine
        self.prompt_tokens = self.output_tokens = self.reused = 0
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
        """See `Engine.engine_id`."""
        return self.engine.engine_id

    @property
    def call_size(self) -> int:
        """See `Engine.call_size`."""
        return self.engine.call_size

    def pin(self, adapter: str) -> str:
        """See `Engine.pin`."""
        return self.engine.pin(adapter)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """See `Engine.generate`."""

        def keys() -> list[bytes]:
            return [request_key(request) for request in requests]

        def answer(new: Sequence[int]) -> list[Completion]:
            return self.engine.generate([requests[index] for index in new])

        results = self._answered(requests, [()] * len(requests), keys, answer, Completion)
        self.output_tokens += sum(answer.completion_tokens for answer in results)
        return results

    def score(
        self, requests: Sequence[Request], choices: Sequence[Sequence[str]], *, prune_margin: float | None = None
    ) -> list[ChoiceScores]:
        """See `Engine.score`."""
        scored = [tuple(texts) for texts in choices]

        def keys() -> list[bytes]:
            return [request_key(request, texts, prune_margin) for request, texts in zip(requests, scored, strict=True)]

        def answer(new: Sequence[int]) -> list[ChoiceScores]:
            chosen = [scored[index] for index in new]
            return self.engine.score([requests[index] for index in new], chosen, prune_margin=prune_margin)

        results = self._answered(requests, scored, keys, answer, ChoiceScores)
        self.output_tokens += sum(answer.scored_tokens for answer in results)
        return results

    def _answered(
        self,
        requests: Sequence[Request],
        choices: Sequence[tuple[str, ...]],
        keys: Callable[[], Sequence[bytes]],
        answer: Callable[[Sequence[int]], Sequence[_Answer]],
        kind: type[_Answer],
    ) -> list[_Answer]:
        if self._answers is None:
            known = [False] * len(requests)
            results = list(answer(range(len(requests))))
        else:
            known, results = self._looked_up(self._answers, keys(), choices, answer, kind)
        self.prompt_tokens += sum(answer.prompt_tokens for answer in results)
        if self._listener is not None:
            for exchange in zip(requests, results, choices, known, strict=True):
                self._listener(Exchange(*exchange))
        return results

    def _looked_up(
        self,
        answers: Answers,
        keys: Sequence[bytes],
        choices: Sequence[tuple[str, ...]],
        answer: Callable[[Sequence[int]], Sequence[_Answer]],
        kind: type[_Answer],
    ) -> tuple[list[bool], list[_Answer]]:
        results: dict[bytes, _Answer] = {}
        for key, scored in dict(zip(keys, choices, strict=True)).items():
            earlier = answers.get(key)
            if isinstance(earlier, kind) and _count(earlier) == len(scored):
                results[key] = earlier
        known = [key in results and key not in self._own for key in keys]
        self.reused += sum(known)
        first = {key: index for index, key in reversed(list(enumerate(keys))) if key not in results}
        new = sorted(first.values())
        if new:
            computed = dict(zip((keys[index] for index in new), answer(new), strict=True))
            answers.update(computed)
            results.update(computed)
            self._own.update(first)
        return known, [results[key] for key in keys]


def _count(answer: Answer) -> int:
    """Number of choices that an answer scores."""
    return len(answer.log_probabilities) if isinstance(answer, ChoiceScores) else 0


def request_key(request: Request, *more: Hashable) -> bytes:
    """Hash of all that an answer of an engine depends on; `keep_prefix` is a hint."""
    return hashlib.sha256(repr((replace(request, keep_prefix=False), *more)).encode("utf-8", "surrogatepass")).digest()
