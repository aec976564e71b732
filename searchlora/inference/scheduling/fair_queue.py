"""A line for each caller, served in turn."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence

from searchlora.inference.scheduling.requests import Work

#: A work behind which so often others were taken, because they fitted and it did not, holds up all others until what is
#: under way has made room for it. Between two takings lies one step of the rows that write.
PATIENCE = 64


class Lines:
    """All lines; not safe for threads by itself."""

    def __init__(self) -> None:
        self._lines: OrderedDict[Hashable, deque[Work]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, list(self._lines.values())))

    def put(self, work: Work, caller: Hashable) -> None:
        """At the end of the caller's line."""
        self._lines.setdefault(caller, deque()).append(work)

    def take(self, fits: Callable[[Work], bool], taken: list[Work]) -> None:
        """From the head of each line in turn, as long as something fits; who was served stands behind the others.

        Args:
            taken: Where they are put, one by one, so that none is lost when this is interrupted.
        """
        first = self._waits_too_long()
        turn = deque(self._lines) if first is None else deque([first, *self._needing_no_room(first)])
        refused: list[Work] = []
        while turn:
            caller = turn.popleft()
            line = self._lines[caller]
            if not (line[0].needs_no_room or fits(line[0])):
                refused.append(line[0])
                continue
            taken.append(line.popleft())
            self._lines.move_to_end(caller)
            if line:
                turn.append(caller)
            else:
                del self._lines[caller]
            for work in refused:  # that nothing more fits is no reason to be impatient; that others do is one
                work.passed_over += 1
            refused = []
            if caller == first:  # it has got its room; the others may have what is left
                first, turn = None, deque(self._lines)

    def _waits_too_long(self) -> Hashable | None:
        """The caller whose work was passed over most, where that is too often."""
        caller = max(self._lines, key=lambda caller: self._lines[caller][0].passed_over, default=None)
        return caller if caller in self._lines and self._lines[caller][0].passed_over >= PATIENCE else None

    def _needing_no_room(self, first: Hashable) -> list[Hashable]:
        return [caller for caller, line in self._lines.items() if caller != first and line[0].needs_no_room]

    def drop(self, unwanted: Callable[[Work], bool]) -> list[Work]:
        """Take out all of a kind, wherever they stand."""
        dropped = []
        for caller, line in list(self._lines.items()):
            dropped += [work for work in line if unwanted(work)]
            kept = deque(work for work in line if not unwanted(work))
            if kept:
                self._lines[caller] = kept
            else:
                del self._lines[caller]
        return dropped

    def take_back(self, works: Sequence[Work]) -> None:
        """Take out these."""
        given = set(map(id, works))
        self.drop(lambda work: id(work) in given)
