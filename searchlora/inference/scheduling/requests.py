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
    """What every work item of the scheduler has."""

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
    """A request that the model runner computes."""

    ids: TokenIds
    adapter: str | None = None  # pinned name of the adapter; None is the bare base model
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
    """Generate one answer; the result is its token ids, the stop token included."""

    max_new_tokens: int  # maximum number of generated tokens
    matcher: LLMatcher | None = None  # state of the grammar; None means unconstrained
    sampler: TokenSampler | None = None  # how tokens are chosen; None means greedy
    text: AnswerText | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)  # log-probabilities of the tokens that were passed on
    ignore_stop: bool = False  # generate on after the stop token, up to `max_new_tokens` (for speed measurements)
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
    """Upper bounds on what is computed and stored at once."""

    rows: int
    cache_tokens: int
    pass_tokens: int  # tokens of one prefill or scoring pass: number of rows times the longest, choices included
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
