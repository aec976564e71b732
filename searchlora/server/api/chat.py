"""`/v1/chat/completions`: answers to chats, whole or streamed, optionally constrained by a grammar."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Response

from searchlora.inference.engine import Completion, TokenLogprob
from searchlora.inference.engine import Request as EngineRequest
from searchlora.server.api.adapter_tasks import task_prompt
from searchlora.server.api.errors import ApiError
from searchlora.server.api.generation import (
    AnswerStream,
    Delta,
    Generation,
    generate,
    submit_requests,
    token_json,
    with_answer_tokens,
)
from searchlora.server.api.generation_schemas import ChatRequest
from searchlora.server.api.grammars import grammar_of
from searchlora.server.api.openapi import EVENTS
from searchlora.server.api.response_schemas import ChatCompletion
from searchlora.server.api.routing import ApiRequest, api_router
from searchlora.server.api.service import Service

router = api_router()


@router.post(
    "/v1/chat/completions", summary="Generate an answer", response_model=ChatCompletion, responses={200: EVENTS}
)
async def chat(http: ApiRequest, body: ChatRequest) -> Response:
    """Answer a chat, whole or streamed."""

    def submit(stream: AnswerStream | None) -> tuple[Generation, ChatFormat]:
        request = _request(http.service, body)
        generation = submit_requests(http.service, [request], body.n or 1, caller=http.caller, stream=stream)
        return generation, ChatFormat(generation, bool(body.stream_options and body.stream_options.include_usage))

    return await generate(http, body.n or 1, submit, stream=bool(body.stream))


@dataclass
class ChatFormat:
    """OpenAI's `chat.completion`, and its chunks.

    Attributes:
        generation: The answers.
        include_usage: Whether a stream ends with the usage.
    """

    generation: Generation
    include_usage: bool
    _id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    _created: int = field(default_factory=lambda: int(time.time()))
    _begun: set[int] = field(default_factory=set)

    def whole(self, completions: Sequence[Completion]) -> dict[str, Any]:
        """See `Format`."""
        choices = [
            {
                "index": number,
                "message": {"role": "assistant", "content": completion.text, "refusal": None},
                "logprobs": _logprobs(completion.logprobs),
                "finish_reason": completion.finish,
            }
            for number, completion in enumerate(completions)
        ]
        return self._envelope("chat.completion", choices) | {"usage": self.generation.usage(completions)}

    def begin(self) -> Iterator[dict[str, Any]]:
        """See `Format`."""
        return iter(())

    def delta(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """See `Format`."""
        is_first = delta.answer not in self._begun
        self._begun.add(delta.answer)
        if is_first or delta.text or delta.logprobs:
            role = {"role": "assistant"} if is_first else {}
            yield self._chunk(delta.answer, role | {"content": delta.text}, _logprobs(delta.logprobs), None)
        if delta.completion is not None:
            yield self._chunk(delta.answer, {}, None, delta.completion.finish)

    def end(self, completions: Sequence[Completion]) -> Iterator[dict[str, Any] | str]:
        """See `Format`."""
        if self.include_usage:
            yield self._envelope("chat.completion.chunk", []) | {"usage": self.generation.usage(completions)}
        yield "data: [DONE]\n\n"

    def failed(self, error: ApiError) -> Iterator[dict[str, Any]]:
        """See `Format`."""
        yield error.body

    def _chunk(
        self, answer: int, delta: dict[str, Any], logprobs: dict[str, Any] | None, finish: str | None
    ) -> dict[str, Any]:
        choice = {"index": answer, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._envelope("chat.completion.chunk", [choice])

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        model = self.generation.model
        return {"id": self._id, "object": kind, "created": self._created, "model": model, "choices": choices}


def _logprobs(tokens: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    if tokens is None:
        return None
    return {"content": [token_json(each) for each in tokens], "refusal": None}


def _request(service: Service, body: ChatRequest) -> EngineRequest:
    """The engine's request of a chat. The adapter is pinned once: prompt and answer are of one version."""
    pinned = service.pin(body.model)
    messages, default = tuple(message.plain for message in body.messages), None
    grammar = grammar_of(body.response_format, body.structured_outputs)
    if body.prompt == "task" and not body.answer_prefix:
        task = None if pinned is None else service.adapter_tasks.get(pinned)
        if (prompt := task_prompt(task, messages, body.task_input)) is not None:
            messages, grammar, default = prompt.messages, grammar or prompt.grammar, prompt.max_new_tokens
    elif body.task_input is not None:
        message = "'task_input' needs the prompt of the task: leave out 'prompt' and 'answer_prefix'."
        raise ApiError(400, "invalid_value", message, param="task_input")
    request = EngineRequest(
        messages,
        pinned,
        grammar=grammar,
        sampling=body.sampling(body.n or 1, body.top),
        stop=tuple(body.stop or ()),
        answer_prefix=body.answer_prefix,
    )
    param = "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
    requested = body.max_completion_tokens or body.max_tokens
    return with_answer_tokens(service, request, requested, default=default, param=param)
