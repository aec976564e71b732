"""The engine contract: what turns requests into completions, in process or on a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from searchlora.prompts import Message


@dataclass(frozen=True)
class Request:
    """One prompt for one adapter.

    Attributes:
        messages: The chat up to the answer, as `prompts.messages` makes it.
        adapter: A reference as the store knows it (`name`, `name@3`, `name@production`), or None for the bare base.
        max_new_tokens: Where generation is cut.
    """

    messages: tuple[Message, ...]
    adapter: str | None = None
    max_new_tokens: int = 64


@dataclass(frozen=True)
class Completion:
    """What came back: the text, why it ended, and what it cost in tokens."""

    text: str
    finish: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int


class Engine(Protocol):
    """What every engine does; `tests/contract` holds what it must keep."""

    def pin(self, adapter: str) -> str:
        """The exact version that a reference means now, `name@3`. Raises `NotInStore`."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Greedy completions, one per request, in order; the requests may name different adapters."""

    def score(self, requests: Sequence[Request], choices: Sequence[Sequence[str]]) -> list[list[float]]:
        """Log-probability (natural, summed over all tokens and the stop token) of each choice of each request."""
