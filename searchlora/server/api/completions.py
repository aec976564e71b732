"""`/v1/completions`: continued texts and token arrays, and the answers of adapters to texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from fastapi import Response

from searchlora.errors import SearchloraError
from searchlora.inference.engine import Completion, TokenLogprob
from searchlora.inference.engine import Request as EngineRequest
from searchlora.server.api.answer_stream import Delta
from searchlora.server.api.errors import ApiError, api_error_at
from searchlora.server.api.generation import Format, as_task, generate, with_answer_tokens
from searchlora.server.api.generation_schemas import CompletionRequest
from searchlora.server.api.grammars import grammar_of
from searchlora.server.api.openapi import EVENTS
from searchlora.server.api.response_schemas import TextCompletion
from searchlora.server.api.routing import ApiRequest, api_router
from searchlora.server.api.service import Service

#: Prompts of one request.
_MAX_PROMPTS = 256

#: Tokens of a continuation unless the request says otherwise; OpenAI's default.
_DEFAULT_TOKENS = 16

router = api_router()


@router.post("/v1/completions", summary="Continue texts", response_model=TextCompletion, responses={200: EVENTS})
async def completions(http: ApiRequest, body: CompletionRequest) -> Response:
    """Continue texts and token arrays, or answer texts with the task of an adapter."""
    if len(body.prompt) > _MAX_PROMPTS:
        raise ApiError(400, "invalid_value", f"At most {_MAX_PROMPTS} prompts are taken at once.", param="prompt")
    return await generate(http, body, CompletionFormat, lambda: _requests(http.service, body), prompts=len(body.prompt))


class CompletionFormat(Format):
    """OpenAI's `text_completion`; a chunk of a stream has the same form."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl"

    @cached_property
    def _sent(self) -> dict[int, int]:
        """Number of an answer -> characters of it that were sent."""
        return {}

    def choice(self, number: int, completion: Completion) -> dict[str, Any]:
        return _choice(number, completion.text, _logprobs(completion.logprobs, 0), completion.finish)

    def delta(self, delta: Delta) -> Iterator[dict[str, Any]]:
        offset = self._sent.get(delta.answer, 0)
        self._sent[delta.answer] = offset + len(delta.text)
        finish = delta.completion.finish if delta.completion else None
        choice = _choice(delta.answer, delta.text, _logprobs(delta.logprobs, offset), finish)
        yield self.envelope(self.chunk_kind, [choice])


def _choice(index: int, text: str, logprobs: dict[str, Any] | None, finish: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def _logprobs(tokens: Sequence[TokenLogprob] | None, offset: int) -> dict[str, Any] | None:
    """OpenAI's parallel lists; `text_offset` counts the characters of the answer before each token."""
    if tokens is None:
        return None
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [_name(token) for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{_name(top): top.logprob for top in token.top} for token in tokens],
        "text_offset": offsets,
    }


def _name(token: TokenLogprob) -> str:
    """The text of a token; for a part of a character its bytes, as OpenAI writes them.

    Examples:
        >>> _name(TokenLogprob("\\ufffd", b"\\xc3", -1.0))
        'bytes:\\\\xc3'
    """
    try:
        return token.bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)


def _requests(service: Service, body: CompletionRequest) -> list[EngineRequest]:
    """The engine's requests. The adapter is pinned once: all answers are of one version."""
    pinned = service.pin(body.model, body.key)
    requests = []
    for number, prompt in enumerate(body.prompt):
        try:
            requests.append(_request(service, body, pinned, prompt))
        except (ApiError, SearchloraError) as error:
            if len(body.prompt) == 1:
                raise
            raise api_error_at(error, number, "Prompt", "prompt") from error
    return requests


def _request(
    service: Service, body: CompletionRequest, pinned: str | None, prompt: str | tuple[int, ...]
) -> EngineRequest:
    request = EngineRequest(
        ({"role": "user", "content": prompt},) if isinstance(prompt, str) else (),
        pinned,
        grammar=grammar_of(None, body.structured_outputs),
        sampling=body.sampling,
        stop=tuple(body.stop or ()),
        prompt_ids=() if isinstance(prompt, str) else prompt,
    )
    default = None
    if isinstance(prompt, str) and body.prompt_format == "task":
        request, default = as_task(service, request)
    if isinstance(prompt, str) and default is None:  # the text itself is continued
        token_ids = service.engine.renderer.text_ids(prompt, limit=service.config.max_prompt)
        if not token_ids:
            raise ApiError(400, "invalid_value", "The prompt is empty.", param="prompt")
        request = replace(request, messages=(), prompt_ids=tuple(token_ids))
    default = default or _DEFAULT_TOKENS
    return with_answer_tokens(service, request, body.max_tokens, default=default, param="max_tokens", prompt="prompt")
