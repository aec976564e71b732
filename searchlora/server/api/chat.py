"""`/v1/chat/completions`."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, StreamingResponse

from searchlora.errors import PromptTooLong
from searchlora.inference.engine import Completion
from searchlora.outputs import Grammar
from searchlora.server.api.asking import engine_request
from searchlora.server.api.grammars import fits, grammar
from searchlora.server.api.leaving import unless_gone
from searchlora.server.api.refusals import Refusal, refusal_of
from searchlora.server.api.service import Service
from searchlora.server.api.streaming import Pieces
from searchlora.server.api.wire import ChatRequest

_LOG = logging.getLogger(__name__)


def routes(service: Service) -> APIRouter:
    """Greedy answers, whole or as they are written."""
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, http: Request) -> Response:
        started = time.monotonic()
        pieces = Pieces() if asked.stream else None
        answer = await run_in_threadpool(_begin, service, asked, http.state.caller, pieces)
        if pieces is None:
            completion = await unless_gone(http, asyncio.wrap_future(answer.future))
            await _count(service, answer, completion)
            return JSONResponse(answer.whole(completion))
        texts = pieces.of(answer.future)
        first = await unless_gone(http, anext(texts))  # what fails before the first token still has its status
        service.metrics.first_token.observe(time.monotonic() - started)
        usage = bool(asked.stream_options and asked.stream_options.include_usage)
        events = _events(service, answer, first, texts, usage)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return router


@dataclass(frozen=True)
class _Answer:
    """An answer under way.

    Attributes:
        model: The exact adapter, or the base's name.
        held: The grammar that holds it.
    """

    future: Future[Completion]
    model: str
    held: Grammar | None
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, completion: Completion) -> dict[str, Any]:
        """OpenAI's `chat.completion`."""
        message = {"role": "assistant", "content": completion.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": completion.finish}
        return self._about("chat.completion", [choice]) | {"usage": _usage(completion)}

    def chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        """OpenAI's `chat.completion.chunk`."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._about("chat.completion.chunk", [choice])

    def last(self, completion: Completion) -> dict[str, Any]:
        """The chunk that holds the usage only."""
        return self._about("chat.completion.chunk", []) | {"usage": _usage(completion)}

    def _about(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def _begin(service: Service, asked: ChatRequest, caller: str, pieces: Pieces | None) -> _Answer:
    most = service.settings.answer_tokens
    length = asked.max_completion_tokens or asked.max_tokens
    if length is not None and length > most:
        field = "max_completion_tokens" if asked.max_completion_tokens else "max_tokens"
        raise Refusal(400, "invalid_value", f"An answer has no more than {most} tokens here.", param=field)
    held = grammar(asked.response_format, asked.structured_outputs)
    request, prompt = engine_request(service, asked, grammar=held)
    request = replace(request, max_new_tokens=length or _room(service, prompt))
    future = service.engine.submit(
        request, caller=caller, seconds=service.settings.seconds, on_token=pieces.told if pieces else None
    )
    return _Answer(future, request.adapter or service.base, held)


def _room(service: Service, prompt: int) -> int:
    """Tokens of an answer whose request does not say: what the server gives, as far as the context has room."""
    if service.engine.context is None:
        return service.settings.answer_tokens
    room = service.engine.context - prompt
    if room < 1:
        raise PromptTooLong(0, prompt, 1, service.engine.context)
    return min(service.settings.answer_tokens, room)


async def _count(service: Service, answer: _Answer, completion: Completion) -> None:
    """Count a completion. One that was cut may fit its grammar all the same."""
    invalid = False
    if answer.held is not None and completion.finish == "length":
        invalid = not await run_in_threadpool(fits, answer.held, completion.text)
    service.metrics.completed(answer.model, completion, invalid=invalid)


async def _events(
    service: Service, answer: _Answer, first: str, texts: AsyncIterator[str], usage: bool
) -> AsyncIterator[str]:
    """Server-sent events. What fails in the middle is told in one, and is the last."""
    try:
        yield _event(answer.chunk({"role": "assistant", "content": first}))
        async for text in texts:
            if text:
                yield _event(answer.chunk({"content": text}))
        completion = answer.future.result()
        await _count(service, answer, completion)
        yield _event(answer.chunk({}, completion.finish))
        if usage:
            yield _event(answer.last(completion))
        yield "data: [DONE]\n\n"
    except Exception as error:
        refusal = refusal_of(error)
        if refusal.code == "internal_error":
            _LOG.exception("an answer broke off")
        yield _event(refusal.body)
    finally:
        answer.future.cancel()


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


def _usage(completion: Completion) -> dict[str, int]:
    return {
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "total_tokens": completion.prompt_tokens + completion.completion_tokens,
    }
