"""What an engine is asked to do, and how much of it at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from searchlora.errors import DeadlineExceeded


@dataclass(eq=False)
class Work:
    """One answer to write or to score, or an errand that the computing thread runs between two passes.

    Attributes:
        ids: The prompt.
        adapter: Pinned; None is the bare base.
        answers: Token ids of the answers to score; None where one is written.
        prune_margin: As for `Engine.score`.
        keep_prefix: The same prompt comes once more soon.
        most: Tokens after which an answer is cut.
        matcher: What the answer's grammar admits next; None: anything.
        endless: Goes on after the token that ends an answer, up to `most`; for measuring speed.
        errand: Called with nothing; all else is left out then.
        deadline: On the monotonic clock, after which nobody wants it.
        on_token: Called with all tokens so far after each token, by the computing thread; it must be fast. An exception
            that it raises fails this work.
        passed_over: In how many takings others fitted behind it and it did not.
        result: The tokens written (a list), a `Scored`, or what the errand returned.
    """

    ids: tuple[int, ...] = ()
    adapter: str | None = None
    answers: tuple[tuple[int, ...], ...] | None = None
    prune_margin: float | None = None
    keep_prefix: bool = False
    most: int = 0
    matcher: Any = None
    endless: bool = False
    errand: Callable[[], Any] | None = None
    deadline: float | None = None
    on_token: Callable[[list[int]], None] | None = None
    passed_over: int = 0
    result: Future[Any] = field(default_factory=Future)

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more."""
        late = self.deadline is not None and time.monotonic() > self.deadline
        return self.result.done() or late

    @property
    def needs_no_room(self) -> bool:
        """Whether it can be taken whatever else is under way."""
        return self.errand is not None or self.over

    @property
    def tokens(self) -> int:
        """That it may come to: the prompt, and what is written or scored behind it."""
        return len(self.ids) + (self.most if self.answers is None else sum(map(len, self.answers)))

    def fail(self, error: BaseException) -> None:
        """Tell who waits, unless they have given up."""
        with suppress(InvalidStateError):  # another thread may cancel it at any moment
            self.result.set_exception(error)

    def fail_late(self) -> None:
        """Tell who waits that its deadline has passed."""
        self.fail(DeadlineExceeded("the deadline passed before this was done", fix="Allow more time, or ask less."))

    def done(self, value: Any) -> None:
        """Give what was asked for, unless nobody waits."""
        with suppress(InvalidStateError):
            self.result.set_result(value)

    def tell(self, ids: list[int]) -> None:
        """Tell who listens the tokens so far."""
        if self.on_token is not None:
            try:
                self.on_token(ids)
            except Exception as error:
                self.fail(error)


@dataclass(frozen=True)
class Limits:
    """What is computed and kept at once.

    Attributes:
        rows: That write at once, or are scored at once.
        tokens: Of keys and values: the rows that write times the longest they may become.
        tokens_of_pass: Rows that are read or scored at once times the longest, the answers to score with it.
        waiting: Works that wait.
    """

    rows: int
    tokens: int
    tokens_of_pass: int
    waiting: int

    def pass_holds(self, rows: int, longest: int) -> bool:
        """Whether one pass may read or score so many rows, the longest of so many tokens."""
        return rows <= self.rows and rows * longest <= self.tokens_of_pass
