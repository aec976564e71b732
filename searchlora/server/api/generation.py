"""Generation of answers for chats, completions and responses: submission, streams, usage and metrics.

Each of the three has a format of its own, which turns answers into JSON and server-sent events.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from fastapi import Request as HttpRequest
from fastapi import Response
from starlette.responses import StreamingResponse

from searchlora.errors import DeadlineExceeded, PromptTooLong, SearchloraError
from searchlora.inference.engine import Completion, Request, TokenLogprob
from searchlora.outputs import Grammar
from searchlora.server.api.disconnect import unless_disconnected
from searchlora.server.api.errors import ApiError, api_error_at, api_error_of
from searchlora.server.api.grammars import fits
from searchlora.server.api.service import Service

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delta:
    """What was added to an answer.

    Attributes:
        answer: Number of the answer, from 0.
        text: The added text, possibly empty.
        logprobs: Log-probabilities of the added tokens, if they were asked for.
        completion: The whole answer, if it ends here.
    """

    answer: int
    text: str
    logprobs: tuple[TokenLogprob, ...] | None = None
    completion: Completion | None = None


class AnswerStream:
    """Growing answers, passed from the engine's thread to the event loop. Create it in the event loop.

    Only the newest text of each answer is held, however slowly the client reads.

    Args:
        answers: Number of answers.
    """

    def __init__(self, answers: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._newest: list[tuple[str, tuple[TokenLogprob, ...]]] = [("", ())] * answers
        self._changed = asyncio.Event()

    def on_token(self, first: int, answer: int, text: str, logprobs: tuple[TokenLogprob, ...] | None) -> None:
        """Receive an answer so far; with `first` bound, the callback for `LocalEngine.submit_answers`."""
        self._newest[first + answer] = (text, logprobs or ())
        self._wake()

    async def deltas(self, futures: Sequence[Future[Completion]]) -> AsyncIterator[Delta]:
        """What is added to the answers, in the order in which it is; the last delta of each holds its completion.

        Closing the iterator cancels all requests. Raises what a future raises, after the text before it.
        """
        for future in futures:
            future.add_done_callback(lambda _: self._wake())
        sent, sent_logprobs = [""] * len(futures), [0] * len(futures)
        unfinished = list(range(len(futures)))
        try:
            while unfinished:
                await self._changed.wait()
                self._changed.clear()
                for answer in list(unfinished):
                    future = futures[answer]
                    done = future.done()  # before the text is read, so that the text of a failed answer is the last
                    failed = done and (future.cancelled() or future.exception() is not None)
                    completion = future.result() if done and not failed else None
                    text, logprobs = self._newest[answer]
                    if completion is not None:
                        text, logprobs = completion.text, completion.logprobs or ()
                    added, added_logprobs = text[len(sent[answer]) :], logprobs[sent_logprobs[answer] :]
                    if added or completion is not None:
                        yield Delta(answer, added, added_logprobs or None, completion)
                        sent[answer], sent_logprobs[answer] = text, len(logprobs)
                    if done:
                        future.result()
                        unfinished.remove(answer)
        finally:
            for future in futures:
                future.cancel()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop is closed; the engine's thread continues
            self._loop.call_soon_threadsafe(self._changed.set)


@dataclass(frozen=True)
class Generation:
    """Submitted answers to one or several prompts.

    Attributes:
        model: The exact adapter version, or the base's name.
        futures: The answers, prompt by prompt.
        answers: Number of answers to each prompt.
        grammars: The constraint of the answers to each prompt, if any.
        caller: Who asked.
    """

    model: str
    futures: Sequence[Future[Completion]]
    answers: int
    grammars: Sequence[Grammar | None]
    caller: str

    def cancel(self) -> None:
        """Withdraw all requests."""
        for future in self.futures:
            future.cancel()

    def usage(self, completions: Sequence[Completion]) -> dict[str, int]:
        """Tokens of all answers; those of a prompt count once, however many answers it has."""
        prompt = sum(each.prompt_tokens for each in completions[:: self.answers])
        completion = sum(each.completion_tokens for each in completions)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def token_json(token: TokenLogprob) -> dict[str, Any]:
    """A token of an answer with its log-probability, as chats and responses show it."""
    return _token(token) | {"top_logprobs": [_token(top) for top in token.top]}


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.bytes)}


class Format(Protocol):
    """The format of an endpoint's answers. Events are JSON objects; one with a `type` is sent under that name."""

    def whole(self, completions: Sequence[Completion]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""

    def begin(self) -> Iterator[Mapping[str, Any]]:
        """The events before the first delta."""

    def delta(self, delta: Delta) -> Iterator[Mapping[str, Any]]:
        """The events of a delta."""

    def end(self, completions: Sequence[Completion]) -> Iterator[Mapping[str, Any] | str]:
        """The events after the last delta; a text is sent as it is."""

    def failed(self, error: ApiError) -> Iterator[Mapping[str, Any]]:
        """The last events of a stream that fails."""


Submit = Callable[[AnswerStream | None], tuple[Generation, Format]]


async def generate(service: Service, http: HttpRequest, answers: int, submit: Submit, *, stream: bool) -> Response:
    """The response of a request that generates text, whole or as server-sent events.

    Args:
        service: The service.
        http: The request, whose client may disconnect.
        answers: Number of answers to all prompts together.
        submit: Submits the engine's requests; called in a worker thread.
        stream: Whether the answers are streamed.

    Raises:
        ApiError: 400, for more answers than the engine's queue takes; 429, for more than the caller may have.
    """
    started, caller = time.monotonic(), http.state.caller
    if answers > service.settings.max_waiting:
        message = f"At most {service.settings.max_waiting} answers are generated at once."
        raise ApiError(400, "invalid_value", message, param="n")
    with ExitStack() as admission:
        admission.enter_context(service.admitted(caller, answers))
        growing = AnswerStream(answers) if stream else None
        generation, answer_format = await service.in_thread(
            caller, lambda: submit(growing), on_abandoned=lambda submitted: submitted[0].cancel()
        )
        if growing is None:
            try:
                completions = await unless_disconnected(http, _all(generation.futures))
            finally:
                generation.cancel()
            await _count(service, generation, completions)
            return await service.json(caller, lambda: answer_format.whole(completions))
        deltas = growing.deltas(generation.futures)
        first = await unless_disconnected(http, anext(deltas))  # an error before the first token has its own status
        service.metrics.first_token.observe(time.monotonic() - started)
        deadline = asyncio.get_running_loop().time() + service.settings.timeout - (time.monotonic() - started)
        events = _events(service, generation, answer_format, first, deltas, deadline, admission.pop_all())
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def submit_requests(
    service: Service,
    requests: Sequence[Request],
    answers: int,
    *,
    caller: str,
    stream: AnswerStream | None,
) -> Generation:
    """Submit requests with one adapter, all or none.

    Args:
        service: The service.
        requests: One per prompt; adapters are pinned.
        answers: Number of answers to each prompt.
        caller: Who asks.
        stream: Receives the growing answers.

    Raises:
        ApiError: with the position of the prompt, if there are several.
        SearchloraError: as `LocalEngine.submit_answers`.
    """
    futures: list[Future[Completion]] = []
    try:
        for number, request in enumerate(requests):
            if request.grammar is not None:
                service.grammar_trial.check(request.grammar)
            on_token = None if stream is None else partial(stream.on_token, number * answers)
            seconds = service.settings.timeout
            futures += service.engine.submit_answers(
                request, answers, client=caller, seconds=seconds, on_token=on_token
            )
    except BaseException as error:
        for future in futures:
            future.cancel()
        if len(requests) > 1 and isinstance(error, SearchloraError):
            raise api_error_at(error, number, "Prompt", "prompt") from error
        raise
    model = requests[0].adapter or service.base
    return Generation(model, futures, answers, [request.grammar for request in requests], caller)


def with_answer_tokens(
    service: Service,
    request: Request,
    requested: int | None,
    *,
    default: int | None,
    param: str,
    prompt: str = "messages",
) -> Request:
    """The request, rendered, with its limit of new tokens. It tokenises: call it in a worker thread.

    Args:
        service: The service.
        request: The engine's request, with its adapter pinned.
        requested: The limit that the client asks for.
        default: The limit without `requested`; None: the server's, reduced to what the context window leaves.
        param: The field of `requested`.
        prompt: The field of the prompt.

    Raises:
        ApiError: 400, for a limit above the server's, and as `Service.rendered`.
        PromptTooLong: for a prompt that leaves no room for an answer.
    """
    limit, context = service.settings.max_answer_tokens, service.engine.context
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


async def _count(service: Service, generation: Generation, completions: Sequence[Completion]) -> None:
    """Count completions. A truncated one may still match its grammar."""
    by_prompt = [
        completions[first : first + generation.answers] for first in range(0, len(completions), generation.answers)
    ]

    def invalid() -> list[int]:
        return [
            sum(each.finish == "length" and not fits(grammar, each.text) for each in answers) if grammar else 0
            for grammar, answers in zip(generation.grammars, by_prompt, strict=True)
        ]

    has_cut = any(generation.grammars) and any(each.finish == "length" for each in completions)
    counts = await service.in_thread(generation.caller, invalid) if has_cut else [0] * len(by_prompt)
    for answers, count in zip(by_prompt, counts, strict=True):
        service.metrics.completed(generation.model, answers, invalid=count)


async def _events(
    service: Service,
    generation: Generation,
    answer_format: Format,
    first: Delta,
    deltas: AsyncIterator[Delta],
    deadline: float,
    admission: ExitStack,
) -> AsyncIterator[str]:
    """Server-sent events. An error in the middle of the stream is the last event.

    Args:
        service: The service.
        generation: The answers.
        answer_format: Their format.
        first: The first delta.
        deltas: The further deltas.
        deadline: Time of the event loop at which the stream ends with an error, whatever the engine does.
        admission: Closed at the end of the stream.
    """
    try:
        for event in answer_format.begin():
            yield sent_event(event)
        delta: Delta | None = first
        while delta is not None:
            for event in answer_format.delta(delta):
                yield sent_event(event)
            delta = await _next_delta(deltas, deadline)
        completions = [future.result() for future in generation.futures]
        await _count(service, generation, completions)
        for end in answer_format.end(completions):
            yield end if isinstance(end, str) else sent_event(end)
    except Exception as error:
        api_error = api_error_of(error)
        if api_error.code == "internal_error":
            _LOG.exception("a streamed answer failed")
        for event in answer_format.failed(api_error):
            yield sent_event(event)
    finally:
        generation.cancel()
        admission.close()


async def _next_delta(deltas: AsyncIterator[Delta], deadline: float) -> Delta | None:
    """The next delta; None at the end. Raises `DeadlineExceeded` at the deadline."""
    try:
        async with asyncio.timeout_at(deadline):
            return await anext(deltas, None)
    except TimeoutError:
        raise DeadlineExceeded(
            "the deadline passed before this was done", fix="Allow more time, or ask less."
        ) from None


def sent_event(event: Mapping[str, Any]) -> str:
    """A server-sent event, named by its `type` if it has one."""
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n"
