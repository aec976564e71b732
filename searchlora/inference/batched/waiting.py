"""What waits to be computed: a line for each caller, served in turn."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Work:
    """One answer to write or to score, or an errand that the engine's thread runs between two passes.

    Attributes:
        ids: The prompt.
        adapter: Pinned; None is the bare base.
        answers: Token ids of the answers to score; None where one is written.
        within: As for `Engine.score`.
        most, matcher, endless: As for `writing.Row`.
        errand: Called with nothing; all else is left out then.
        deadline: On the monotonic clock, after which nobody wants it.
        told: Called with the tokens of a row after each one, by the engine's thread; it must be quick.
        result: The tokens written (a list), a `Scored`, or what the errand returned.
    """

    ids: tuple[int, ...] = ()
    adapter: str | None = None
    answers: tuple[tuple[int, ...], ...] | None = None
    within: float | None = None
    most: int = 0
    matcher: Any = None
    endless: bool = False
    errand: Callable[[], Any] | None = None
    deadline: float | None = None
    told: Callable[[list[int]], None] | None = None
    result: Future[Any] = field(default_factory=Future)

    @property
    def late(self) -> bool:
        """Whether its deadline has passed."""
        return self.deadline is not None and time.monotonic() > self.deadline

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.result.done() or self.late

    def fail(self, error: BaseException) -> None:
        """Tell who waits, unless they have given up."""
        with suppress(InvalidStateError):  # another thread may cancel it at any moment
            self.result.set_exception(error)

    def done(self, value: Any) -> None:
        """Give what was asked for, unless nobody waits."""
        with suppress(InvalidStateError):
            self.result.set_result(value)


@dataclass(frozen=True)
class Limits:
    """What is computed and kept at once.

    Attributes:
        rows: That write at once, or are scored at once.
        tokens: Of keys and values: the rows that write times the longest they may become.
        tokens_of_pass: Rows that are read or scored at once times the longest prompt.
        waiting: Works that wait.
    """

    rows: int
    tokens: int
    tokens_of_pass: int
    waiting: int


class Lines:
    """All lines; not safe for threads by itself."""

    def __init__(self) -> None:
        self._lines: OrderedDict[Hashable, deque[Work]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, work: Work, caller: Hashable) -> None:
        """At the end of the caller's line."""
        self._lines.setdefault(caller, deque()).append(work)
        self._count += 1

    def take(self, fits: Callable[[Work], bool]) -> list[Work]:
        """From the head of each line in turn, as long as something fits; who was served stands behind the others."""
        taken: list[Work] = []
        turn = deque(self._lines)
        while turn:
            caller = turn.popleft()
            line = self._lines[caller]
            if not fits(line[0]):
                continue
            taken.append(line.popleft())
            self._lines.move_to_end(caller)
            if line:
                turn.append(caller)
            else:
                del self._lines[caller]
        self._count -= len(taken)
        return taken
