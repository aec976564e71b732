"""`/v1/responses`: text in, text out, whole or as the events of OpenAI's Responses API. Nothing is stored."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Response

from searchlora.inference.engine import Completion, TokenLogprob
from searchlora.inference.engine import Request as EngineRequest
from searchlora.server.api.answer_stream import Delta
from searchlora.server.api.errors import ApiError
from searchlora.server.api.generation import Format, as_task, generate, token_json, with_answer_tokens
from searchlora.server.api.generation_schemas import ResponseRequest
from searchlora.server.api.grammars import grammar_of
from searchlora.server.api.keys import requires
from searchlora.server.api.openapi import EVENTS
from searchlora.server.api.response_schemas import Logprob, ResponseObject
from searchlora.server.api.routing import ApiRequest, api_router
from searchlora.server.api.service import Service

router = api_router()


@router.post("/v1/responses", summary="Generate a response", response_model=ResponseObject, responses={200: EVENTS})
@requires("search")
async def responses(http: ApiRequest, body: ResponseRequest) -> Response:
    """Answer in the format of OpenAI's Responses API; nothing is stored."""
    return await generate(http, body, ResponseFormat, lambda: [_request(http.service, body)])


@dataclass
class ResponseFormat(Format):
    """OpenAI's `response` with one message, and its events."""

    _id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    _message: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")
    _events: int = 0

    def whole(self, completions: Sequence[Completion]) -> dict[str, Any]:
        (completion,) = completions
        usage = self.generation.usage(completions)
        cut = completion.finish == "length"
        return self._response("incomplete" if cut else "completed", [self._item(completion)]) | {
            "completed_at": None if cut else int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage["total_tokens"],
            },
        }

    def begin(self) -> Iterator[dict[str, Any]]:
        yield self._event("response.created", response=self._response("in_progress", []))
        yield self._event("response.in_progress", response=self._response("in_progress", []))
        yield self._event("response.output_item.added", output_index=0, item=self._item(None))
        yield self._event("response.content_part.added", **self._place, part=_part("", None))

    def delta(self, delta: Delta) -> Iterator[dict[str, Any]]:
        if delta.text or delta.logprobs:
            logprobs = _logprobs(delta.logprobs)
            yield self._event("response.output_text.delta", **self._place, delta=delta.text, logprobs=logprobs)

    def end(self, completions: Sequence[Completion]) -> Iterator[dict[str, Any] | str]:
        (completion,) = completions
        text, logprobs = completion.text, completion.logprobs
        yield self._event("response.output_text.done", **self._place, text=text, logprobs=_logprobs(logprobs))
        yield self._event("response.content_part.done", **self._place, part=_part(text, logprobs))
        yield self._event("response.output_item.done", output_index=0, item=self._item(completion))
        whole = self.whole(completions)
        yield self._event(f"response.{whole['status']}", response=whole)

    def failed(self, error: ApiError) -> Iterator[dict[str, Any]]:
        reason = {"code": "server_error", "message": error.message}
        yield self._event("response.failed", response=self._response("failed", []) | {"error": reason})
        yield self._event("error", code=error.code, message=error.message, param=error.param)

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._message, "output_index": 0, "content_index": 0}

    def _event(self, type_: str, **fields: Any) -> dict[str, Any]:
        event = {"type": type_, "sequence_number": self._events, **fields}
        self._events += 1
        return event

    def _item(self, completion: Completion | None) -> dict[str, Any]:
        """The message; None while it is being written."""
        status, content = "in_progress", list[dict[str, Any]]()
        if completion is not None:
            status = "incomplete" if completion.finish == "length" else "completed"
            content = [_part(completion.text, completion.logprobs)]
        return {"id": self._message, "type": "message", "role": "assistant", "status": status, "content": content}

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        sampling = self.generation.requests[0].sampling
        given = self.body.text.format if self.body.text else None
        text_format = {"type": "text"} if given is None else given.model_dump(by_alias=True, exclude_none=True)
        return {
            "id": self._id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "instructions": self.body.instructions,
            "max_output_tokens": self.body.max_output_tokens,
            "metadata": self.body.metadata or {},
            "model": self.generation.model,
            "output": output,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": sampling.temperature,
            "text": {"format": text_format},
            "tool_choice": "none",
            "tools": [],
            "top_logprobs": self.body.top_logprobs or 0,
            "top_p": sampling.top_p,
            "truncation": "disabled",
            "usage": None,
        }


def _part(text: str, logprobs: Sequence[TokenLogprob] | None) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": _logprobs(logprobs)}


def _logprobs(tokens: Sequence[TokenLogprob] | None) -> list[Logprob]:
    return [token_json(each) for each in tokens or ()]


def _request(service: Service, body: ResponseRequest) -> EngineRequest:
    """The engine's request. The adapter is pinned once: prompt and answer are of one version."""
    request = EngineRequest(
        tuple(body.messages),
        service.pin(body.model, body.key),
        grammar=grammar_of(body.response_format, body.structured_outputs),
        sampling=body.sampling,
        stop=tuple(body.stop or ()),
    )
    request, default = as_task(service, request) if body.prompt_format == "task" else (request, None)
    param = "max_output_tokens"
    return with_answer_tokens(service, request, body.max_output_tokens, default=default, param=param, prompt="input")
