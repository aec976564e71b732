"""A model of an OpenAI-compatible service that this machine does not have: no tokenizer, no fingerprint, no adapters.

It writes answers, and scores closed sets by the log-probabilities of the first token, where the service gives them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from searchlora.errors import EngineError, NotInStore, RequestRefused, UnusableAnswer
from searchlora.http_client import OF_ONE_REQUEST, HttpClient, Refused, api_key
from searchlora.inference.engine import ChoiceScores, Completion, Request
from searchlora.inference.remote.dialects import chat_body, completion_of
from searchlora.inference.sampling import Sampling
from searchlora.inference.settings import ServerSettings

#: Most likely tokens that a service is asked for: the most that OpenAI's API gives.
TOP = 20

_GENERATE = "Let the model write its answer (--generate), or use a service with 'logprobs'."

Result = TypeVar("Result")


class ServiceEngine:
    """An engine over `POST /v1/chat/completions`.

    The service renders the chat with its own template, so this is for models that were not trained here: teachers and
    zero-shot judges. The answer to a request is what the service says; it need not be the same twice.
    """

    def __init__(self, settings: ServerSettings, model: str) -> None:
        self.model = model
        self.served: set[str] = set()
        self.call_size = settings.concurrency
        self._client = HttpClient(
            settings.url,
            api_key=api_key(settings.api_key_env, settings.url),
            connections=settings.concurrency,
            timeout_s=settings.timeout_s,
            retries=settings.retries,
        )
        self._pool = ThreadPoolExecutor(settings.concurrency, "searchlora-service")

    @property
    def engine_id(self) -> str:
        return f"{self._client.url}, {self.model}"

    def pin(self, adapter: str) -> str:
        """Raises `NotInStore`: a service has no adapters."""
        raise NotInStore(f"the service has no adapter '{adapter}'", where=self._client.url)

    def close(self) -> None:
        """Close the connections."""
        self._pool.shutdown()
        self._client.close()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """See `Engine.generate`; grammars are not sent, so that the answer is parsed strictly.

        A request that the service refuses alone, as by a filter of contents, has an empty answer, and a warning tells
        why.
        """
        if any(request.answer_prefix for request in requests):
            raise EngineError(
                "a service cannot go on behind the beginning of an answer",
                where=self._client.url,
                fix="Let the model write the whole answer: --generate.",
            )
        return self._each(self._answered, requests)

    def score(
        self, requests: Sequence[Request], choices: Sequence[Sequence[str]], *, prune_margin: float | None = None
    ) -> list[ChoiceScores]:
        """The log-probability of the first token of each choice, among the `TOP` most likely ones.

        Tokens that begin a choice and no other count for it, whatever their case and blanks; a choice without such a
        token gets that of the least likely token. Where no token begins a choice, as when the model writes something
        else first, and for a request that is refused alone, all scores are nan: the output is invalid.
        """
        del prune_margin
        return self._each(lambda pair: self._score(*pair), list(zip(requests, choices, strict=True)))

    def _each(self, answer: Callable[[Any], Result], asked: Sequence[Any]) -> list[Result]:
        futures = [self._pool.submit(answer, one) for one in asked]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def _answered(self, request: Request) -> Completion:
        try:
            return self._completed(request)
        except (RequestRefused, UnusableAnswer) as error:
            warnings.warn(f"the service refused a request: {error.what}", stacklevel=2)
            return Completion("", "stop", 0, 0)

    def _score(self, request: Request, choices: Sequence[str]) -> ChoiceScores:
        completion = self._answered(Request(request.messages, max_new_tokens=1, sampling=Sampling(logprobs=TOP)))
        tokens = completion.prompt_tokens, completion.completion_tokens
        unknown = ChoiceScores((math.nan,) * len(choices), *tokens, completion.counted)
        if not completion.logprobs:  # refused
            return unknown
        likely = completion.logprobs[0].top
        found: dict[str, list[float]] = {choice: [] for choice in choices}
        for token in likely:
            begun = [choice for choice in choices if _begins(token.text, choice)]
            if len(begun) == 1:
                found[begun[0]].append(token.logprob)
            elif len(begun) > 1 and token.logprob > math.log(0.5):
                both = " and ".join(f"'{choice}'" for choice in begun[:2])
                raise EngineError(
                    f"{both} begin with the same token '{token.text}'", where=self._client.url, fix=_GENERATE
                )
        if not any(found.values()):
            return unknown
        least = min(token.logprob for token in likely)
        scores = tuple(_sum(values) if values else least for values in found.values())
        return replace(unknown, log_probabilities=scores)

    def _completed(self, request: Request) -> Completion:
        body = chat_body(self.model, request)
        try:
            answer = self._client.post("/v1/chat/completions", body)
        except Refused as error:
            if error.status in OF_ONE_REQUEST:
                raise RequestRefused(error.what, where=error.where, fix=error.fix) from None
            raise
        try:
            completion = completion_of(answer, request.sampling)
        except UnusableAnswer:
            raise
        except EngineError as error:
            raise EngineError(error.what, where=self._client.url, fix=_GENERATE) from None
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise EngineError(
                f"the service's answer is not understood ({type(error).__name__}: {error})", where=self._client.url
            ) from error
        if isinstance(used := answer.get("model"), str) and used not in ("", self.model):
            self.served.add(used)
        given = completion.logprobs  # empty where the model has stopped at once
        if request.sampling.logprobs is not None and (given is None or (given and not given[0].top)):
            raise EngineError("the service gives no log-probabilities", where=self._client.url, fix=_GENERATE)
        return completion


def _begins(token: str, choice: str) -> bool:
    """Whether a token is a beginning of a choice, or the whole choice.

    Examples:
        >>> [_begins(token, "2") for token in ("2", " 2", "20", "two", " ")]
        [True, True, False, False, False]
        >>> [_begins(token, "refund") for token in ("ref", "Refund", "return", "")]
        [True, True, False, False]
    """
    text = token.strip().casefold()
    return bool(text) and choice.casefold().startswith(text)


def _sum(log_probabilities: Sequence[float]) -> float:
    """The logarithm of a sum of probabilities."""
    best = max(log_probabilities)
    return best + math.log(math.fsum(math.exp(value - best) for value in log_probabilities))
