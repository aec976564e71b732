"""Generation of answers for chats and completions: submission, streams, usage and metrics.

Each has a format of its own, which turns answers into JSON and server-sent events.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, ClassVar

from fastapi import Response

from searchlora.errors import PromptTooLong, SearchloraError
from searchlora.inference.engine import Completion, Request, TokenLogprob
from searchlora.server.api.adapter_tasks import task_request
from searchlora.server.api.answer_stream import AnswerStream, Delta
from searchlora.server.api.disconnect import unless_disconnected
from searchlora.server.api.errors import ApiError, api_error_at
from searchlora.server.api.generation_schemas import GenerationRequest
from searchlora.server.api.response_schemas import GenerationUsage, Logprob, TopLogprob
from searchlora.server.api.routing import ApiRequest
from searchlora.server.api.service import Service
from searchlora.server.api.streams import before, sent_event, streamed


@dataclass(frozen=True)
class Generation:
    """Submitted answers to one or several prompts."""

    model: str
    futures: Sequence[Future[Completion]]
    answers: int
    requests: Sequence[Request]

    def cancel(self) -> None:
        """Withdraw all requests."""
        for future in self.futures:
            future.cancel()

    def usage(self, completions: Sequence[Completion]) -> GenerationUsage:
        """Tokens of all answers; those of a prompt count once, however many answers it has."""
        prompts = completions[:: self.answers]
        prompt = sum(each.prompt_tokens for each in prompts)
        completion = sum(each.completion_tokens for each in completions)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": sum(each.cached_tokens for each in prompts)},
        }


def token_json(token: TokenLogprob) -> Logprob:
    """A token of an answer with its log-probability, as chats show it."""
    return {**_token(token), "top_logprobs": [_token(top) for top in token.top]}


def _token(token: TokenLogprob) -> TopLogprob:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.bytes)}


@dataclass
class Format(ABC):
    """OpenAI's list of choices, of chats and completions. A stream may end with the usage, and ends with `[DONE]`."""

    kind: ClassVar[str]
    chunk_kind: ClassVar[str]
    prefix: ClassVar[str]

    generation: Generation
    body: GenerationRequest
    created: int = field(default_factory=lambda: int(time.time()))

    @cached_property
    def id(self) -> str:
        """One for all chunks."""
        return f"{self.prefix}-{uuid.uuid4().hex}"

    @abstractmethod
    def choice(self, number: int, completion: Completion) -> dict[str, Any]:
        """A whole answer."""

    @abstractmethod
    def delta(self, delta: Delta) -> Iterator[Mapping[str, Any]]:
        """The events of a delta."""

    def whole(self, completions: Sequence[Completion]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        choices = [self.choice(number, completion) for number, completion in enumerate(completions)]
        return self.envelope(self.kind, choices) | {"usage": self.generation.usage(completions)}

    def end(self, completions: Sequence[Completion]) -> Iterator[Mapping[str, Any] | str]:
        """The events after the last delta; a text is sent as it is."""
        if self.body.stream_options and self.body.stream_options.include_usage:
            yield self.envelope(self.chunk_kind, []) | {"usage": self.generation.usage(completions)}
        yield "data: [DONE]\n\n"

    def envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """The choices with what stands beside them."""
        head = {"id": self.id, "object": kind, "created": self.created}
        return {**head, "model": self.generation.model, "choices": choices}


async def generate(
    http: ApiRequest,
    body: GenerationRequest,
    form: type[Format],
    requests: Callable[[], Sequence[Request]],
    *,
    prompts: int = 1,
) -> Response:
    """The response of a request that generates text, whole or as server-sent events."""
    service, started, answers = http.service, time.monotonic(), prompts * body.answers
    if answers > service.config.waiting:
        message = f"At most {service.config.waiting} answers are generated at once."
        raise ApiError(400, "invalid_value", message, param="n")
    with ExitStack() as admission:
        admission.enter_context(service.admitted(http.client_id, answers))
        growing = AnswerStream(answers) if body.stream else None
        generation = await http.in_thread(
            lambda: submit_requests(service, requests(), body.answers, client_id=http.client_id, stream=growing),
            on_abandoned=Generation.cancel,
        )
        answer_format = form(generation, body)
        if growing is None:
            try:
                completions = await unless_disconnected(http, _all(generation.futures))
            finally:
                generation.cancel()
            _count(service, generation, completions)
            return await http.json_response(lambda: answer_format.whole(completions))
        deltas = growing.deltas(generation.futures)
        first = await unless_disconnected(http, anext(deltas))  # an error before the first token has its own status
        service.metrics.first_token.observe(time.monotonic() - started)
        deadline = asyncio.get_running_loop().time() + service.config.timeout - (time.monotonic() - started)
        admission.callback(generation.cancel)
        events = _events(service, generation, answer_format, first, deltas, deadline)
        return streamed(events, lambda error: [sent_event(error.body)], admission.pop_all())


def submit_requests(
    service: Service,
    requests: Sequence[Request],
    answers: int,
    *,
    client_id: str,
    stream: AnswerStream | None,
) -> Generation:
    """Submit requests with one pinned adapter, all or none."""
    futures: list[Future[Completion]] = []
    try:
        for number, request in enumerate(requests):
            on_token = None if stream is None else partial(stream.on_token, number * answers)
            seconds = service.config.timeout
            futures += service.engine.submit_answers(
                request, answers, client=client_id, seconds=seconds, on_token=on_token
            )
    except BaseException as error:
        for future in futures:
            future.cancel()
        if len(requests) > 1 and isinstance(error, SearchloraError):
            raise api_error_at(error, number, "Prompt", "prompt") from error
        raise
    model = requests[0].adapter or service.base
    return Generation(model, futures, answers, requests)


def as_task(service: Service, request: Request, fields: Mapping[str, Any] | None = None) -> tuple[Request, int | None]:
    """A chat as its adapter's task asks it, with the recipe's limit of tokens; unchanged, and None, without a task."""
    name = request.adapter
    task = None if name is None or service.engine.is_folder(name) else service.adapter_task(name)
    asked = task_request(request, task, fields)
    return (request, None) if asked is None else (asked, asked.max_new_tokens)


def with_answer_tokens(
    service: Service,
    request: Request,
    requested: int | None,
    *,
    default: int | None,
    param: str,
    prompt: str = "messages",
) -> Request:
    """The request, rendered, with its limit of new tokens. It tokenises: call it in a worker thread."""
    limit, context = service.config.max_answer, service.engine.context
    if requested is not None and requested > limit:
        raise ApiError(400, "invalid_value", f"An answer has at most {limit} tokens on this server.", param=param)
    request = service.rendered(request, param=prompt)
    length = len(request.prompt_ids)
    tokens = requested or min(limit if default is None else default, limit)
    if requested is None and default is None and context is not None:
        if length >= context:
            raise PromptTooLong(0, length, 1, context)
        tokens = min(tokens, context - length)
    return replace(request, max_new_tokens=tokens)


async def _all(futures: Sequence[Future[Completion]]) -> list[Completion]:
    """The results in order; the first error in that order."""
    return [await asyncio.wrap_future(future) for future in futures]


def _count(service: Service, generation: Generation, completions: Sequence[Completion]) -> None:
    for number, request in enumerate(generation.requests):
        answers = completions[number * generation.answers : (number + 1) * generation.answers]
        cut = sum(each.finish == "length" for each in answers) if request.grammar else 0
        service.metrics.completed(generation.model, answers, invalid=cut)


async def _events(
    service: Service,
    generation: Generation,
    answer_format: Format,
    first: Delta,
    deltas: AsyncIterator[Delta],
    deadline: float,
) -> AsyncIterator[str]:
    """Server-sent events. At the deadline, the stream ends with an error, whatever the engine does."""
    delta: Delta | None = first
    while delta is not None:
        for event in answer_format.delta(delta):
            yield sent_event(event)
        delta = await before(deadline, anext(deltas, None))
    completions = [future.result() for future in generation.futures]
    _count(service, generation, completions)
    for end in answer_format.end(completions):
        yield end if isinstance(end, str) else sent_event(end)
