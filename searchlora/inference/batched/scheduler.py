"""Who is computed when. One thread at a time uses the model; callers' work is collected into its batches.

Between two tokens of the rows that write, rows that ended leave, new ones enter, and one batch of answers is scored.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch

from searchlora.errors import DeadlineExceeded, EngineBusy, EngineError
from searchlora.inference.batched.reading import Prompt, Reader
from searchlora.inference.batched.slots import Slots
from searchlora.inference.batched.trees import score_trees
from searchlora.inference.batched.waiting import Limits, Lines, Work
from searchlora.inference.batched.writing import Row, Writer


@dataclass
class Counts:
    """What was done so far."""

    steps: int = 0
    rows_stepped: int = 0
    tokens_written: int = 0
    scored: int = 0
    refused: int = 0


@dataclass
class _Taken:
    """What is taken from the lines for the next passes."""

    rows: int
    longest: int
    worn: set[str]
    scored: list[Work] = field(default_factory=list)


class Scheduler:
    """Runs what waits; no thread of its own outlives the work, so an engine that nobody holds can be forgotten."""

    def __init__(self, writer: Writer, reader: Reader, slots: Slots, limits: Limits) -> None:
        self.limits = limits
        self.counts = Counts()
        self._writer, self._reader, self._slots = writer, reader, slots
        self._writing: dict[Row, Work] = {}
        self._lines = Lines()
        self._changed = threading.Condition()
        self._driven = False  # whether some thread computes
        self._closed = False

    @property
    def waiting(self) -> int:
        """Works in the lines."""
        return len(self._lines)

    @property
    def writing(self) -> int:
        """Rows that write."""
        return len(self._writing)

    def submit(self, works: Sequence[Work], caller: Hashable) -> None:
        """Put works at the end of their caller's line, and go on; a thread computes them.

        Raises:
            EngineBusy: when they do not all have room.
            EngineError: when the engine is closed.
        """
        with self._changed:
            if len(self._lines) + len(works) > self.limits.waiting:
                self.counts.refused += len(works)
                raise EngineBusy(
                    f"{len(self._lines)} requests wait already, and no more than {self.limits.waiting} may",
                    fix="Ask again later, or ask fewer at once.",
                )
            for work in works:
                self._put(work, caller)
            self._start_thread()

    def finish(self, works: Sequence[Work], caller: Hashable) -> None:
        """Put works into their caller's line and see them done, whatever becomes of them.

        Where no thread computes, the caller's own does, for all who wait, until its works are done. (OpenMP keeps
        threads for each thread that computes, and waits idly as soon as there are more than cores: a step takes half
        as long again in a thread beside one that has computed before.)

        Raises:
            EngineError: when the engine is closed.
        """
        left, open_ = deque(works), _Countdown(len(works))
        for work in works:
            work.result.add_done_callback(open_.down)
        while left or open_.count:
            with self._changed:
                while left and len(self._lines) < self.limits.waiting:
                    self._put(left.popleft(), caller)
                if self._driven:
                    self._changed.wait()
                    continue
                self._driven = True
            try:
                self._drive(lambda: bool(left) or not open_.count)
            finally:
                self._let_go()

    def close(self, seconds: float) -> None:
        """Take nothing more and finish what waits; what is not finished after so many seconds fails."""
        until = time.monotonic() + seconds
        with self._changed:
            self._closed = True
            while (self._driven or self._has_work) and time.monotonic() < until:
                self._start_thread()
                self._changed.wait(until - time.monotonic())
            left = [*self._lines.take(lambda _: True), *self._writing.values()]
        for work in left:
            work.fail(EngineError("the engine was closed before this was done"))

    @property
    def _has_work(self) -> bool:
        return bool(len(self._lines) or self._writing)

    def _put(self, work: Work, caller: Hashable) -> None:
        if self._closed:
            raise EngineError("the engine is closed")
        self._lines.put(work, caller)

    def _start_thread(self) -> None:
        """Unless some thread computes, or there is nothing to do."""
        if not self._driven and self._has_work:
            self._driven = True
            threading.Thread(target=self._run, name="searchlora-engine", daemon=True).start()

    def _run(self) -> None:
        try:
            self._drive(lambda: False)
        finally:
            self._let_go()

    def _drive(self, enough: Callable[[], bool]) -> None:
        """Compute until it is enough or nothing is left to do."""
        with torch.inference_mode():
            try:
                while self._has_work and not enough():
                    self._once()
            except BaseException:  # an interrupt, in the middle of anything
                self._forget_rows(EngineError("the computation was interrupted"))
                raise

    def _let_go(self) -> None:
        with self._changed:
            self._driven = False
            self._changed.notify_all()
            self._start_thread()

    def _once(self) -> None:
        self._leave()
        with self._changed:
            rows = self._writer.rows
            taken = _Taken(len(rows), max((_longest(row) for row in rows), default=0), set(self._slots.worn))
            works = self._lines.take(lambda work: self._fits(work, taken))
            self._changed.notify_all()  # there is room again
        wanted = []
        for work in works:
            if work.over:
                work.fail(_late())
            elif work.errand is not None:
                self._guard([work], lambda work=work: work.done(work.errand()))  # type: ignore[misc]
            else:
                wanted.append(work)
        self._compute([work for work in wanted if work.answers is not None], self._score)
        self._compute([work for work in wanted if work.answers is None], self._enter)
        self._leave()
        if self._writing:
            self._guard(list(self._writing.values()), self._step, writing=True)

    def _fits(self, work: Work, taken: _Taken) -> bool:
        """Whether a work can be computed beside what was taken before; if so, it is counted as taken."""
        if work.over or work.errand is not None:
            return True
        if work.adapter is not None and work.adapter not in taken.worn and len(taken.worn) >= self._slots.count:
            return False
        if work.answers is not None:
            longest = max(len(each.ids) for each in [work, *taken.scored])
            count = len(taken.scored) + 1
            too_many = count > self.limits.rows or count * longest > self.limits.tokens_of_pass
            if taken.scored and (too_many or work.within != taken.scored[0].within):
                return False
            taken.scored.append(work)
        else:
            longest = max(taken.longest, len(work.ids) + work.most)
            if taken.rows and (taken.rows >= self.limits.rows or (taken.rows + 1) * longest > self.limits.tokens):
                return False
            taken.rows, taken.longest = taken.rows + 1, longest
        if work.adapter is not None:
            taken.worn.add(work.adapter)
        return True

    def _compute(self, works: Sequence[Work], do: Callable[[dict[Prompt, Work]], None]) -> None:
        """Load what the works wear, and compute them together."""
        ready: dict[Prompt, Work] = {}
        for work in works:
            try:
                ready[Prompt(work.ids, work.adapter, self._slots.wear(work.adapter))] = work
            except Exception as error:
                work.fail(error)
        if ready:
            self._guard(list(ready.values()), lambda: do(ready), writing=do == self._enter)

    def _score(self, works: dict[Prompt, Work]) -> None:
        try:
            answers = [work.answers or () for work in works.values()]
            found = score_trees(self._reader, list(works), answers, next(iter(works.values())).within)
        finally:
            for prompt in works:
                self._slots.doff(prompt.adapter)
        self.counts.scored += len(found)
        for work, scored in zip(works.values(), found, strict=True):
            work.done(scored)

    def _enter(self, works: dict[Prompt, Work]) -> None:
        rows = {Row(prompt, work.most, work.matcher, work.endless): work for prompt, work in works.items()}
        self._writing.update(rows)
        self._writer.enter(list(rows))
        self._tell(rows)

    def _step(self) -> None:
        self._writer.step()
        self.counts.steps += 1
        self.counts.rows_stepped += len(self._writing)
        self._tell(self._writing)

    def _tell(self, rows: dict[Row, Work]) -> None:
        self.counts.tokens_written += len(rows)
        for row, work in rows.items():
            if work.told is not None:
                work.told(row.ids)

    def _leave(self) -> None:
        for row in self._writer.leave(lambda row: row.ended or self._writing[row].over):
            work = self._writing.pop(row)
            self._slots.doff(row.prompt.adapter)
            if row.error is not None:
                work.fail(row.error)
            elif row.ended:
                work.done(row.ids)
            else:
                work.fail(_late())

    def _guard(self, works: Sequence[Work], do: Callable[[], None], *, writing: bool = False) -> None:
        """What goes wrong in a pass (memory runs out, a kernel refuses) fails those that were in it; others go on.

        Args:
            writing: The rows that write were in it, or share keys and values with what was.
        """
        try:
            do()
        except Exception as error:
            for work in works:
                work.fail(error)
            if writing:
                self._forget_rows(error)

    def _forget_rows(self, error: Exception) -> None:
        for row, work in self._writing.items():
            self._slots.doff(row.prompt.adapter)
            work.fail(error)
        self._writing.clear()
        self._writer.drop()


class _Countdown:
    def __init__(self, count: int) -> None:
        self.count = count
        self._lock = threading.Lock()

    def down(self, _: object) -> None:
        with self._lock:
            self.count -= 1


def _longest(row: Row) -> int:
    return len(row.prompt.ids) + row.most


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before this was done", fix="Allow more time, or ask less.")
