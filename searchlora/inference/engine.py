"""The engine contract: requests in, completions and choice scores out, in process or over HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from searchlora.errors import RequestRefused, UnusableAnswer
from searchlora.inference.sampling import GREEDY, Sampling
from searchlora.outputs import Grammar
from searchlora.prompts import Message


@dataclass(frozen=True)
class Request:
    """One prompt for one adapter.

    Attributes:
        messages: The chat up to the answer, as `prompts.messages` renders it.
        adapter: A store reference (`name`, `name@3`, `name@production`); None selects the bare base model.
        max_new_tokens: Maximum number of generated tokens.
        grammar: Constraint on the generated text, but not on `answer_prefix` or scored choices.
        sampling: How the tokens of the answer are chosen; the default is greedy.
        stop: Strings that end the answer where the generated text first contains one of them.
        answer_prefix: Fixed beginning of the answer, which a completion does not repeat.
        choice_suffix: Text after each scored choice; None means the stop token.
        prompt_ids: Token ids of the whole prompt, in place of `messages` and `answer_prefix`; for the local engine.
        keep_prefix: Hint that the same messages follow again soon, so that a scoring engine keeps their KV cache.

    Raises:
        RequestRefused: for an empty stop string.

    Examples:
        >>> Request(({"role": "user", "content": "tent"},), adapter="shop-intent@production").max_new_tokens
        64
        >>> Request((), sampling=Sampling(temperature=0.7, seed=1), stop=(".",)).sampling.is_greedy
        False
    """

    messages: tuple[Message, ...]
    adapter: str | None = None
    max_new_tokens: int = 64
    grammar: Grammar | None = None
    answer_prefix: str = ""
    choice_suffix: str | None = None
    keep_prefix: bool = False
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    prompt_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not all(self.stop):
            raise RequestRefused("a stop string is empty", fix="Give strings of at least one character.")


@dataclass(frozen=True)
class TokenLogprob:
    """Log-probability of one token under the model itself: before temperature, filters, penalties and grammar.

    Attributes:
        text: The token's text; a part of a character is replaced by U+FFFD.
        bytes: Its UTF-8 bytes.
        logprob: Its natural log-probability.
        top: The most likely tokens at its place, best first, as many as `Sampling.logprobs` says.
    """

    text: str
    bytes: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


def token_logprob(content: bytes, logprob: float, top: Iterable[TokenLogprob] = ()) -> TokenLogprob:
    return TokenLogprob(content.decode("utf-8", "replace"), content, logprob, tuple(top))


@dataclass(frozen=True)
class Completion:
    """A generated answer and its cost.

    Attributes:
        text: The generated text without `answer_prefix`, and without the stop token or stop string.
        finish: "stop" at the stop token or a stop string, "length" at `max_new_tokens`.
        prompt_tokens: Length of the prompt, `answer_prefix` included.
        completion_tokens: Number of generated tokens, those of the stop token or stop string included.
        logprobs: Log-probabilities of the tokens of `text`, if `Sampling.logprobs` asks for them. The token in which a
            stop string begins is included.
        cached_tokens: Tokens of the prompt that came from the prefix cache.
        counted: False for a server that reports no numbers of tokens: they are 0 here.
    """

    text: str
    finish: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    logprobs: tuple[TokenLogprob, ...] | None = None
    cached_tokens: int = field(default=0, compare=False)
    counted: bool = field(default=True, compare=False)


@dataclass(frozen=True)
class ChoiceScores:
    """Log-probabilities of the choices of a request, and their cost.

    Attributes:
        log_probabilities: Natural log-probability of each choice, in order, summed over its tokens and the stop token
            (or `choice_suffix`).
        prompt_tokens: Prompt tokens, multiplied by the number of times the prompt was computed.
        scored_tokens: Choice tokens whose probability was computed; a token shared by choices counts once.
        counted: As that of `Completion`.
    """

    log_probabilities: tuple[float, ...]
    prompt_tokens: int
    scored_tokens: int
    counted: bool = field(default=True, compare=False)


def non_finite_error(adapter: str | None) -> UnusableAnswer:
    """The error of a request whose hidden states or log-probabilities are NaN or infinite."""
    return UnusableAnswer(
        "computes no finite numbers for this prompt",
        where=adapter or "the base model",
        fix="Train it again at a lower learning rate, or serve it in fp32.",
    )


class Engine(Protocol):
    """The interface of every engine; `tests/contract` holds the shared tests."""

    @property
    def engine_id(self) -> str:
        """What distinguishes outputs of this engine from those of another one: where and how they are computed.

        Stored outputs are reused only if it is the same. Raises `EngineError` if a server cannot say what it serves.
        """

    @property
    def call_size(self) -> int:
        """The number of requests that one call should hold, where there are that many, so that no part of it idles."""

    def pin(self, adapter: str) -> str:
        """The exact version that a reference means now, `name@3`. Raises `NotInStore`."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Completions, one per request, in order; the requests may name different adapters.

        A constrained completion either matches its grammar completely (`finish` is "stop") or was cut (`finish` is
        "length"), unless it ended at a stop string. The same request with the same seed gives the same completion.

        Raises:
            EngineError: for the first request with an unusable grammar; nothing is computed then.
        """

    def score(
        self, requests: Sequence[Request], choices: Sequence[Sequence[str]], *, prune_margin: float | None = None
    ) -> list[ChoiceScores]:
        """Log-probability of each choice of each request, summed over all tokens of the choice.

        Args:
            choices: The choices of each request.
            prune_margin: Log-probability margin in nats. Choices whose first tokens together fall this far behind the
                best choice get an upper bound. The best choice stays exact; a probability computed from the scores is
                off by at most exp(-prune_margin) (8: 0.0004). None scores every choice exactly.

        Raises:
            EngineError: if a log-probability is NaN or infinite; there is no best choice then.
        """
