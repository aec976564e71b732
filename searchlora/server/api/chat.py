"""`/v1/chat/completions`: greedy answers, whole or streamed, optionally constrained by a grammar."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter
from starlette.responses import JSONResponse, StreamingResponse

from searchlora.errors import DeadlineExceeded, PromptTooLong
from searchlora.inference.engine import Completion
from searchlora.inference.engine import Request as EngineRequest
from searchlora.outputs import Grammar, escape_regex
from searchlora.server.api.disconnect import unless_disconnected
from searchlora.server.api.errors import ApiError, api_error_of
from searchlora.server.api.schemas import ChatRequest, ResponseFormat, StructuredOutputs
from searchlora.server.api.service import Service
from searchlora.server.api.tasks import chat_prompt

_LOG = logging.getLogger(__name__)

_BODY = TypeAdapter(ChatRequest)

#: Characters of a grammar. Compiling the worst one of this size takes about a second, and cannot be interrupted.
_MAX_GRAMMAR_CHARACTERS = 65_536

_ANY_OBJECT = Grammar("json_schema", '{"type": "object"}')


def routes(service: Service) -> APIRouter:
    """`POST /v1/chat/completions`."""
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat(http: Request) -> Response:
        started = time.monotonic()
        body = await service.body(http, _BODY)
        with ExitStack() as admission:
            admission.enter_context(service.admitted(http.state.caller))
            stream = TextStream() if body.stream else None
            answer = await service.in_thread(
                http.state.caller,
                lambda: _submit(service, body, http.state.caller, stream),
                on_abandoned=lambda answer: answer.future.cancel(),
            )
            if stream is None:
                completion = await unless_disconnected(http, asyncio.wrap_future(answer.future))
                await _count(service, answer, completion)
                return JSONResponse(answer.whole(completion))
            deltas = stream.deltas(answer.future)
            first = await unless_disconnected(http, anext(deltas))  # an error before the first token has its own status
            service.metrics.first_token.observe(time.monotonic() - started)
            include_usage = bool(body.stream_options and body.stream_options.include_usage)
            deadline = asyncio.get_running_loop().time() + service.settings.timeout - (time.monotonic() - started)
            events = _events(service, answer, first, deltas, include_usage, deadline, admission.pop_all())
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return router


class TextStream:
    """The growing text of an answer, passed from the engine's thread to the event loop. Create it in the event loop.

    Only the newest text is held, however slowly the client reads.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._text = ""
        self._changed = asyncio.Event()

    def on_token(self, text: str) -> None:
        """Receive the text so far; the callback for `LocalEngine.submit`."""
        self._text = text
        self._wake()

    async def deltas(self, future: Future[Completion]) -> AsyncIterator[str]:
        """Text added since the last delta, possibly empty; all deltas together are the completion's text.

        Closing the iterator cancels the request. Raises what the future raises.
        """
        future.add_done_callback(lambda _: self._wake())
        sent = ""
        try:
            done = False
            while not done:
                await self._changed.wait()
                self._changed.clear()
                done = future.done()
                text = self._text.rstrip("\ufffd")  # an incomplete character is completed by the next token
                if text.startswith(sent) and not (done and text == sent):
                    yield text[len(sent) :]
                    sent = text
            yield future.result().text[len(sent) :]
        finally:
            future.cancel()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop is closed; the engine's thread continues
            self._loop.call_soon_threadsafe(self._changed.set)


def grammar_of(response_format: ResponseFormat | None, outputs: StructuredOutputs | None) -> Grammar | None:
    """The grammar that constrains the answer; None for unconstrained text.

    Raises:
        ApiError: 400, when both fields ask for a grammar, a field is incomplete, or the grammar is too long.

    Examples:
        >>> grammar_of(None, StructuredOutputs(choice=["yes", "no"])).text
        'yes|no'
    """
    first = _of_response_format(response_format) if response_format is not None else None
    second = _of_structured_outputs(outputs) if outputs is not None else None
    if first and second:
        raise _invalid("Give either response_format or structured_outputs, not both.", "structured_outputs")
    grammar = first or second
    if grammar is not None and len(grammar.text) > _MAX_GRAMMAR_CHARACTERS:
        param = "response_format" if first else "structured_outputs"
        raise _invalid(f"A grammar has at most {_MAX_GRAMMAR_CHARACTERS:,} characters.", param)
    return grammar


def fits(grammar: Grammar, text: str) -> bool:
    """Whether a text is a complete sentence of a grammar that the engine has accepted."""
    from llguidance import LLMatcher, LLTokenizer

    parsers = {
        "json_schema": LLMatcher.grammar_from_json_schema,
        "regex": LLMatcher.grammar_from_regex,
        "lark": LLMatcher.grammar_from_lark,
    }
    tokens = LLTokenizer("byte")  # every byte is a token
    matcher = LLMatcher(tokens, parsers[grammar.kind](grammar.text), log_level=0)
    ids = tokens.tokenize_str(text)
    return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())


@dataclass(frozen=True)
class _Answer:
    """A submitted answer.

    Attributes:
        model: The exact adapter version, or the base's name.
        grammar: The constraint, if any.
        caller: Who asked.
    """

    future: Future[Completion]
    model: str
    grammar: Grammar | None
    caller: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, completion: Completion) -> dict[str, Any]:
        """OpenAI's `chat.completion`."""
        message = {"role": "assistant", "content": completion.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": completion.finish}
        return self._envelope("chat.completion", [choice]) | {"usage": _usage(completion)}

    def chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        """OpenAI's `chat.completion.chunk`."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._envelope("chat.completion.chunk", [choice])

    def usage_chunk(self, completion: Completion) -> dict[str, Any]:
        """The last chunk, which holds the usage only."""
        return self._envelope("chat.completion.chunk", []) | {"usage": _usage(completion)}

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def _submit(service: Service, body: ChatRequest, caller: str, stream: TextStream | None) -> _Answer:
    limit = service.settings.max_answer_tokens
    requested = body.max_completion_tokens or body.max_tokens
    if requested is not None and requested > limit:
        param = "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
        raise ApiError(400, "invalid_value", f"An answer has at most {limit} tokens on this server.", param=param)
    grammar = grammar_of(body.response_format, body.structured_outputs)
    messages = tuple(message.plain for message in body.messages)
    if body.prompt == "task" and not body.answer_prefix:
        prompt = chat_prompt(service, service.pin(body.model), messages, body.task_input)
        if prompt is not None:
            messages, of_task, tokens = prompt
            grammar, requested = grammar or of_task, requested or min(tokens, limit)
    elif body.task_input is not None:
        message = "'task_input' needs the prompt of the task: leave out 'prompt' and 'answer_prefix'."
        raise ApiError(400, "invalid_value", message, param="task_input")
    request, prompt_tokens = service.engine_request(
        EngineRequest(messages, body.model, answer_prefix=body.answer_prefix, grammar=grammar)
    )
    request = replace(request, max_new_tokens=requested or _default_answer_tokens(service, prompt_tokens))
    future = service.engine.submit(
        request, caller=caller, seconds=service.settings.timeout, on_token=stream.on_token if stream else None
    )
    return _Answer(future, request.adapter or service.base, grammar, caller)


def _default_answer_tokens(service: Service, prompt_tokens: int) -> int:
    """The server's limit, reduced to what the context window leaves."""
    if service.engine.context is None:
        return service.settings.max_answer_tokens
    room = service.engine.context - prompt_tokens
    if room < 1:
        raise PromptTooLong(0, prompt_tokens, 1, service.engine.context)
    return min(service.settings.max_answer_tokens, room)


async def _count(service: Service, answer: _Answer, completion: Completion) -> None:
    """Count a completion. A truncated one may still match its grammar."""
    invalid = False
    if answer.grammar is not None and completion.finish == "length":
        grammar = answer.grammar
        invalid = not await service.in_thread(answer.caller, lambda: fits(grammar, completion.text))
    service.metrics.completed(answer.model, completion, invalid=invalid)


async def _events(
    service: Service,
    answer: _Answer,
    first: str,
    deltas: AsyncIterator[str],
    include_usage: bool,
    deadline: float,
    admission: ExitStack,
) -> AsyncIterator[str]:
    """Server-sent events. An error in the middle of the stream is the last event.

    Args:
        service: The service.
        answer: The answer.
        first: Its first delta.
        deltas: Its further deltas.
        include_usage: Whether the usage is sent.
        deadline: Time of the event loop at which the stream ends with an error, whatever the engine does.
        admission: Closed at the end of the stream.
    """
    try:
        yield _event(answer.chunk({"role": "assistant", "content": first}))
        while (delta := await _next_delta(deltas, deadline)) is not None:
            if delta:
                yield _event(answer.chunk({"content": delta}))
        completion = answer.future.result()
        await _count(service, answer, completion)
        yield _event(answer.chunk({}, completion.finish))
        if include_usage:
            yield _event(answer.usage_chunk(completion))
        yield "data: [DONE]\n\n"
    except Exception as error:
        api_error = api_error_of(error)
        if api_error.code == "internal_error":
            _LOG.exception("a streamed answer failed")
        yield _event(api_error.body)
    finally:
        answer.future.cancel()
        admission.close()


async def _next_delta(deltas: AsyncIterator[str], deadline: float) -> str | None:
    """The next delta; None at the end. Raises `DeadlineExceeded` at the deadline."""
    try:
        async with asyncio.timeout_at(deadline):
            return await anext(deltas, None)
    except TimeoutError:
        raise DeadlineExceeded(
            "the deadline passed before this was done", fix="Allow more time, or ask less."
        ) from None


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


def _usage(completion: Completion) -> dict[str, int]:
    return {
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "total_tokens": completion.prompt_tokens + completion.completion_tokens,
    }


def _of_response_format(response_format: ResponseFormat) -> Grammar | None:
    if (response_format.json_schema is not None) != (response_format.type == "json_schema"):
        message = "json_schema is required for the type json_schema, and not allowed for another type."
        raise _invalid(message, "response_format.json_schema")
    if response_format.json_schema is not None:
        return _of_schema(response_format.json_schema.schema_)
    return _ANY_OBJECT if response_format.type == "json_object" else None


def _of_structured_outputs(outputs: StructuredOutputs) -> Grammar:
    fields = (outputs.json_, outputs.regex, outputs.grammar, outputs.choice)
    if sum(value is not None for value in fields) != 1:
        raise _invalid("Give exactly one of json, regex, grammar and choice.", "structured_outputs")
    if outputs.json_ is not None:
        return Grammar("json_schema", outputs.json_) if isinstance(outputs.json_, str) else _of_schema(outputs.json_)
    if outputs.regex is not None:
        return Grammar("regex", outputs.regex)
    if outputs.grammar is not None:
        return Grammar("lark", outputs.grammar)
    assert outputs.choice is not None
    return Grammar("regex", "|".join(escape_regex(choice) for choice in outputs.choice))


def _of_schema(schema: dict[str, Any]) -> Grammar:
    try:
        return Grammar("json_schema", json.dumps(schema))
    except RecursionError:
        raise _invalid("The schema is nested too deeply.", "json_schema") from None


def _invalid(message: str, param: str) -> ApiError:
    return ApiError(400, "invalid_value", message, param=param)
