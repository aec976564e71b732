"""The engine contract: what turns requests into completions, in process or on a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from searchlora.outputs import Grammar
from searchlora.prompts import Message


@dataclass(frozen=True)
class Request:
    """One prompt for one adapter.

    Attributes:
        messages: The chat up to the answer, as `prompts.messages` makes it.
        adapter: A reference as the store knows it (`name`, `name@3`, `name@production`), or None for the bare base.
        max_new_tokens: Where generation is cut.
        grammar: What the answer may look like; None: anything. A grammar holds what is generated, not what is scored,
            and not what the answer begins with.
        begins: What the answer begins with, given and not generated. Generation goes on behind it, choices are scored
            behind it, and a completion does not repeat it.
        ends: What follows each choice that is scored, in place of the stop token; None: the stop token.
        again: The same messages are asked once more soon; an engine that scores may keep what it has read of them.
    """

    messages: tuple[Message, ...]
    adapter: str | None = None
    max_new_tokens: int = 64
    grammar: Grammar | None = None
    begins: str = ""
    ends: str | None = None
    again: bool = False


@dataclass(frozen=True)
class Completion:
    """What came back: the text, why it ended, and what it cost in tokens, `begins` counted with the prompt."""

    text: str
    finish: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Scored:
    """How likely the choices of a request are, and what it cost in tokens.

    Attributes:
        log_probabilities: Of each choice, in order; natural, summed over all its tokens and the stop token (or `ends`).
        prompt_tokens: Tokens of the prompt, as often as it was computed.
        scored_tokens: Tokens of the choices whose probability was computed; one that choices share counts once.
    """

    log_probabilities: tuple[float, ...]
    prompt_tokens: int
    scored_tokens: int


class Engine(Protocol):
    """What every engine does; `tests/contract` holds what it must keep."""

    def pin(self, adapter: str) -> str:
        """The exact version that a reference means now, `name@3`. Raises `NotInStore`."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Greedy completions, one per request, in order; the requests may name different adapters.

        A completion that a grammar holds either fits it whole (`finish` is "stop") or was cut (`finish` is "length").
        Raises `EngineError`, naming the request, for a grammar that cannot be used; nothing is computed then.
        """

    def score(
        self, requests: Sequence[Request], choices: Sequence[Sequence[str]], *, within: float | None = None
    ) -> list[Scored]:
        """How likely each choice of each request is, all of its tokens counted.

        Args:
            within: Nats by which choices may together fall behind the best one before their tokens need not be
                computed: the unlikeliest, as far as their first tokens tell. These get the log-probability of their
                first tokens, an upper bound of their own. The best choice and its log-probability stay exact; a
                probability made of the scores is off by at most exp(-within) (8: 0.0004). None: all are exact.
        """
