"""The scheduler's work items: a generation, a scoring or a callback, each with a future for its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from searchlora.errors import DeadlineExceeded
from searchlora.inference.answer_text import AnswerText
from searchlora.inference.engine import ChoiceScores, TokenLogprob
from searchlora.inference.sampling import TokenSampler

if TYPE_CHECKING:
    from llguidance import LLMatcher

Result = TypeVar("Result")
TokenIds = tuple[int, ...]


@dataclass(eq=False, kw_only=True)
class QueuedRequest(Generic[Result]):
    """What every work item of the scheduler has.

    Attributes:
        deadline: Time on the monotonic clock after which the result is no longer wanted.
        overtaken: Number of times that later requests were admitted because they fitted and this one did not.
        client: In whose queue it waits.
        interactive: Whether the client waits for this very request (`submit`), not for all of a call (`finish`).
        result: The result, or the error that ended the request. Cancelling it withdraws the request.
    """

    deadline: float | None = None
    overtaken: int = 0
    client: Hashable = None
    interactive: bool = False
    result: Future[Result] = field(default_factory=Future)

    @property
    def is_over(self) -> bool:
        late = self.deadline is not None and time.monotonic() > self.deadline
        return self.result.done() or late

    @property
    def needs_no_room(self) -> bool:
        """Whether it can be admitted whatever else is running."""
        return self.is_over

    def fail(self, error: BaseException) -> None:
        """Set an error, unless the request is done or cancelled."""
        with suppress(InvalidStateError):  # another thread may cancel it at any moment
            self.result.set_exception(error)

    def fail_late(self) -> None:
        """Fail with `DeadlineExceeded`, unless the request is done or cancelled."""
        self.fail(DeadlineExceeded("the deadline passed before this was done", fix="Allow more time, or ask less."))

    def finish(self, value: Result) -> None:
        with suppress(InvalidStateError):
            self.result.set_result(value)


@dataclass(eq=False, kw_only=True)
class ModelRequest(QueuedRequest[Result]):
    """A request that the model runner computes.

    Attributes:
        adapter: Pinned name of the adapter; None is the bare base model.
        keep_prefix: Keep the KV cache of the prompt: the same prompt follows again soon.
        cached_tokens: Tokens of the prompt that came from the prefix cache; set when it is computed.
        looked_up: State of the prefix cache when it was last looked up, and the length of the cached prefix then.
    """

    ids: TokenIds
    adapter: str | None = None
    keep_prefix: bool = False
    cached_tokens: int = field(default=0, init=False)
    looked_up: tuple[int, int] | None = None

    @property
    def max_tokens(self) -> int:
        """Upper bound of its tokens: the prompt and what is generated or scored after it."""
        raise NotImplementedError


AnyRequest: TypeAlias = QueuedRequest[Any]
AnyModelRequest: TypeAlias = ModelRequest[Any]


@dataclass(eq=False, kw_only=True)
class GenerateRequest(ModelRequest[list[int]]):
    """Generate one answer; the result is its token ids, the stop token included.

    Attributes:
        max_new_tokens: Maximum number of generated tokens.
        matcher: State of the grammar; None means unconstrained.
        sampler: How tokens are chosen; None means greedy.
        text: The growing text, if it is streamed or may end at a stop string.
        logprobs: Log-probabilities of the tokens that were passed on.
        ignore_stop: Generate on after the stop token, up to `max_new_tokens` (for speed measurements).
        on_token: Called with all tokens so far after each token, by the computing thread; it must be fast. An exception
            that it raises fails this request.
    """

    max_new_tokens: int
    matcher: LLMatcher | None = None
    sampler: TokenSampler | None = None
    text: AnswerText | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    ignore_stop: bool = False
    on_token: Callable[[list[int]], None] | None = None

    @property
    def max_tokens(self) -> int:
        return len(self.ids) + self.max_new_tokens

    def report(self, ids: list[int]) -> None:
        if self.on_token is not None:
            try:
                self.on_token(ids)
            except Exception as error:
                self.fail(error)


@dataclass(eq=False, kw_only=True)
class ScoreRequest(ModelRequest[ChoiceScores]):
    """Score the choices of one prompt, at least one."""

    choices: tuple[TokenIds, ...]
    prune_margin: float | None = None

    @property
    def max_tokens(self) -> int:
        return len(self.ids) + sum(map(len, self.choices))


@dataclass(eq=False, kw_only=True)
class CallbackRequest(QueuedRequest[Result]):
    """Call a function in the computing thread, between two forward passes; the result is what it returns."""

    callback: Callable[[], Result]

    @property
    def needs_no_room(self) -> bool:
        return True

    def run(self) -> None:
        try:
            self.finish(self.callback())
        except Exception as error:
            self.fail(error)


@dataclass(frozen=True)
class Limits:
    """Upper bounds on what is computed and stored at once.

    Attributes:
        rows: Rows that generate at once, and rows of one prefill or scoring pass.
        cache_tokens: KV cache of the generating rows: number of rows times the longest.
        pass_tokens: Tokens of one prefill or scoring pass: number of rows times the longest, choices included.
        waiting: Requests in the queue.
        waiting_per_client: Requests of one client in the queue; None: a quarter of `waiting`, but at least 256.
    """

    rows: int
    cache_tokens: int
    pass_tokens: int
    waiting: int
    waiting_per_client: int | None = None

    @property
    def max_queue(self) -> int:
        return self.waiting_per_client or min(self.waiting, max(256, self.waiting // 4))

    @property
    def long_tokens(self) -> int:
        """Tokens of the long prompts that are computed in chunks at once, beside the generating rows.

        While none is computed, one is admitted, however small the cache is: a quarter of this is not 0.
        """
        return max(4, self.cache_tokens // 2)

    def pass_holds(self, rows: int, longest: int) -> bool:
        """Whether one pass may prefill or score this many rows, the longest of `longest` tokens."""
        return rows <= self.rows and rows * longest <= self.pass_tokens
