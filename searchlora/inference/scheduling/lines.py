"""A line for each caller, served in turn."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence

from searchlora.inference.scheduling.work import Work

#: A work that did not fit so often holds up all others, until what is under way has made room for it. Between two
#: takings lies one step of the rows that write.
PATIENCE = 64


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
        first = self._waits_too_long()
        turn = deque(self._lines) if first is None else deque([first])
        while turn:
            caller = turn.popleft()
            line = self._lines[caller]
            if not fits(line[0]):
                line[0].passed_over += 1
                continue
            taken.append(line.popleft())
            self._lines.move_to_end(caller)
            if line:
                turn.append(caller)
            else:
                del self._lines[caller]
        self._count -= len(taken)
        return taken

    def _waits_too_long(self) -> Hashable | None:
        """The caller whose work was passed over most, where that is too often."""
        caller = max(self._lines, key=lambda caller: self._lines[caller][0].passed_over, default=None)
        return caller if caller in self._lines and self._lines[caller][0].passed_over >= PATIENCE else None

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
        self._count = sum(map(len, self._lines.values()))
        return dropped

    def take_back(self, works: Sequence[Work]) -> None:
        """Take out these."""
        given = set(map(id, works))
        self.drop(lambda work: id(work) in given)
