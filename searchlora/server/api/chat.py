"""`/v1/chat/completions`: answers to chats, whole or streamed, optionally constrained by a grammar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from fastapi import Response

from searchlora.inference.engine import Completion, TokenLogprob
from searchlora.inference.engine import Request as EngineRequest
from searchlora.server.api.answer_stream import Delta
from searchlora.server.api.errors import ApiError
from searchlora.server.api.generation import Format, as_task, generate, token_json, with_answer_tokens
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
    return await generate(http, body, ChatFormat, lambda: [_request(http.service, body)])


class ChatFormat(Format):
    """OpenAI's `chat.completion`, and its chunks."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    @cached_property
    def _begun(self) -> set[int]:
        """The answers of which a chunk was sent."""
        return set()

    def choice(self, number: int, completion: Completion) -> dict[str, Any]:
        message = {"role": "assistant", "content": completion.text, "refusal": None}
        logprobs = _logprobs(completion.logprobs)
        return {"index": number, "message": message, "logprobs": logprobs, "finish_reason": completion.finish}

    def delta(self, delta: Delta) -> Iterator[dict[str, Any]]:
        is_first = delta.answer not in self._begun
        self._begun.add(delta.answer)
        if is_first or delta.text or delta.logprobs:
            role = {"role": "assistant"} if is_first else {}
            yield self._chunk(delta.answer, role | {"content": delta.text}, _logprobs(delta.logprobs), None)
        if delta.completion is not None:
            yield self._chunk(delta.answer, {}, None, delta.completion.finish)

    def _chunk(
        self, answer: int, delta: dict[str, Any], logprobs: dict[str, Any] | None, finish: str | None
    ) -> dict[str, Any]:
        choice = {"index": answer, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self.envelope(self.chunk_kind, [choice])


def _logprobs(tokens: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    if tokens is None:
        return None
    return {"content": [token_json(each) for each in tokens], "refusal": None}


def _request(service: Service, body: ChatRequest) -> EngineRequest:
    """The engine's request of a chat. The adapter is pinned once: prompt and answer are of one version."""
    request = EngineRequest(
        tuple(message.plain for message in body.messages),
        service.pin(body.model, body.key),
        grammar=grammar_of(body.response_format, body.structured_outputs),
        sampling=body.sampling,
        stop=tuple(body.stop or ()),
        answer_prefix=body.answer_prefix,
    )
    default = None
    if body.prompt == "task" and not body.answer_prefix:
        request, default = as_task(service, request, body.task_input)
    elif body.task_input is not None:
        message = "'task_input' needs the prompt of the task: leave out 'prompt' and 'answer_prefix'."
        raise ApiError(400, "invalid_value", message, param="task_input")
    param = "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
    requested = body.max_completion_tokens or body.max_tokens
    return with_answer_tokens(service, request, requested, default=default, param=param)
