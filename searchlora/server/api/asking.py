"""From what came over the wire to a request of the engine."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError

from searchlora.inference.engine import Request
from searchlora.server.api.refusals import Refusal
from searchlora.server.api.service import Service
from searchlora.server.api.wire import ChatRequest, ScoreRequest


def engine_request(service: Service, asked: ChatRequest | ScoreRequest, **more: Any) -> tuple[Request, int]:
    """The request with its adapter pinned, and how many tokens its prompt has; `more` goes into it.

    Not for the event loop: it reads the store.

    Raises:
        InvalidName, NotInStore: as `Service.pinned`.
        Refusal: 400, for messages that the chat template refuses and for a prompt longer than the server takes.
    """
    messages = tuple(message.plain for message in asked.messages)
    request = Request(messages, service.pinned(asked.model), answer_prefix=asked.begins, **more)
    try:
        length = len(service.engine.renderer.prompt_ids(messages, asked.begins))
    except TemplateError as error:
        raise Refusal(
            400, "invalid_messages", f"The model's chat template refuses them: {error}.", param="messages"
        ) from None
    most = service.settings.prompt_tokens
    if most is not None and length > most:
        raise Refusal(
            400,
            "context_length_exceeded",
            f"The prompt has {length} tokens, and this server takes {most}. Shorten it.",
            param="messages",
        )
    return request, length
