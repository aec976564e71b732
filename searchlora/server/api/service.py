"""Server settings, and the service object that all routes share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from searchlora.adapters.store import Store
from searchlora.errors import RenderError, UsageError
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.models.resolve import public_name
from searchlora.prompts import Message
from searchlora.server.api.embeddings import Encoders
from searchlora.server.api.errors import ApiError
from searchlora.server.api.metrics import Metrics


@dataclass(frozen=True)
class Settings:
    """Who may send requests, and how large they may be.

    Attributes:
        api_keys: Every request except health probes must carry one of them; empty: no key is required.
        host_names: Host names accepted without an API key, see `http.is_own_host`.
        max_body_bytes: Limit of a request body.
        max_prompt_tokens: Limit of a prompt; None: the context length of the model.
        max_answer_tokens: Limit of an answer, and its default.
        requests_per_minute: POST requests of one caller per minute, as a token bucket; None: no limit.
        timeout: Seconds after which a request fails with 504.
        max_waiting: Limit of the engine's queue.
        max_active_requests: Limit of requests in progress, including those whose body has not arrived.

    Raises:
        UsageError: for an API key that is empty or begins or ends with a blank, which no header can carry.

    Examples:
        >>> Settings(api_keys=("secret",)).timeout
        120.0
    """

    api_keys: tuple[str, ...] = ()
    host_names: tuple[str, ...] = ()
    max_body_bytes: int = 1_000_000
    max_prompt_tokens: int | None = None
    max_answer_tokens: int = 1024
    requests_per_minute: int | None = None
    timeout: float = 120.0
    max_waiting: int = 1024
    max_active_requests: int = 2048

    def __post_init__(self) -> None:
        if any(not key or key != key.strip() for key in self.api_keys):
            raise UsageError(
                "an API key is empty, or begins or ends with a blank",
                fix="Give a long random key, or no key at all to accept every request that reaches the server.",
            )


@dataclass(frozen=True)
class Service:
    """An engine with its adapter store, the encoders, and the settings."""

    engine: LocalEngine
    store: Store
    encoders: Encoders
    settings: Settings
    metrics: Metrics = field(default_factory=Metrics)

    @cached_property
    def base(self) -> str:
        """The name of the base model in requests; never a path."""
        return public_name(self.engine.base.name)

    def pin(self, model: str) -> str | None:
        """The exact adapter version that a request's `model` means now; None for the base model.

        Raises:
            InvalidName: for a string that cannot be a reference, such as a path.
            NotInStore: for an unknown adapter, version or alias.
        """
        return None if model == self.base else self.engine.pin(model)

    def engine_request(self, request: Request) -> tuple[Request, int]:
        """The request with its adapter pinned, and the length of its prompt in tokens.

        Reads the store and tokenises: call it in a worker thread.

        Args:
            request: Its `adapter` is the `model` of the HTTP request.

        Raises:
            InvalidName, NotInStore: as `pin`.
            ApiError: 400, for messages that the chat template refuses and for a prompt above `max_prompt_tokens`.
        """
        assert request.adapter is not None
        pinned = replace(request, adapter=self.pin(request.adapter))
        length = self._prompt_length(request.messages, request.answer_prefix, pinned.adapter)
        limit = self.settings.max_prompt_tokens
        if limit is not None and length > limit:
            raise ApiError(
                400,
                "context_length_exceeded",
                f"The prompt has {length} tokens, and this server takes {limit}. Shorten it.",
                param="messages",
            )
        return pinned, length

    def _prompt_length(self, messages: Sequence[Message], answer_prefix: str, adapter: str | None) -> int:
        try:
            return len(self.engine.renderer.prompt_ids(messages, answer_prefix, adapter))
        except RenderError as error:
            message = f"The messages cannot be rendered: {error.what}."
            raise ApiError(400, "invalid_messages", message, param="messages") from None
