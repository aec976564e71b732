"""Fair queue: one first-in-first-out line per caller, served round robin, with a starvation guard."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from searchlora.inference.scheduling.requests import QueuedRequest

#: Starvation guard: after this many requests have overtaken it, a request blocks the queue until it fits. At most one
#: request per decode step overtakes.
MAX_OVERTAKEN = 64

AnyRequest = QueuedRequest[Any]


class FairQueue:
    """The lines of all callers; not thread-safe.

    Examples:
        >>> from searchlora.inference.scheduling.requests import GenerateRequest
        >>> queue = FairQueue()
        >>> for caller in ("a", "a", "b"):
        ...     queue.push(GenerateRequest(ids=(1,), max_new_tokens=1), caller)
        >>> admitted = []
        >>> queue.admit(lambda request: len(admitted) < 2, admitted)
        >>> len(admitted), len(queue)
        (2, 1)
    """

    def __init__(self) -> None:
        self._lines: OrderedDict[Hashable, deque[AnyRequest]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, list(self._lines.values())))

    def length(self, caller: Hashable) -> int:
        """Number of requests in one caller's line."""
        return len(self._lines.get(caller, ()))

    def push(self, request: AnyRequest, caller: Hashable) -> None:
        """Append a request to its caller's line."""
        request.caller = caller
        self._lines.setdefault(caller, deque()).append(request)

    @property
    def callers(self) -> list[Hashable]:
        """Callers with queued requests, the one whose turn it is first."""
        return list(self._lines)

    def admit(
        self,
        fits: Callable[[AnyRequest], bool],
        admitted: list[AnyRequest],
        may_take: Callable[[AnyRequest], bool] = lambda _: True,
    ) -> None:
        """Move requests from the heads of the lines to `admitted`, round robin, as long as one fits.

        A caller that was served goes to the end of the rotation.

        Args:
            fits: Whether a request has room beside those already admitted.
            admitted: Receives the requests one by one, so that an interrupt loses none.
            may_take: Whether the caller of a request may have more now. If not, its request is passed over without
                being overtaken.
        """
        first = self._starving_caller(may_take)
        turn = deque(self._lines) if first is None else deque([first, *self._needing_no_room(first)])
        skipped: list[AnyRequest] = []
        while turn:
            caller = turn.popleft()
            line = self._lines[caller]
            if not (line[0].needs_no_room or may_take(line[0])):
                continue
            if not (line[0].needs_no_room or fits(line[0])):
                skipped.append(line[0])
                continue
            admitted.append(line.popleft())
            self._lines.move_to_end(caller)
            if line:
                turn.append(caller)
            else:
                del self._lines[caller]
            for request in skipped:  # counted only when another request was admitted after it
                request.overtaken += 1
            skipped = []
            if caller == first:  # the starving request fitted; the others share the remaining room
                first, turn = None, deque(self._lines)

    def _starving_caller(self, may_take: Callable[[AnyRequest], bool]) -> Hashable | None:
        """The caller whose head request was overtaken most often, if at least `MAX_OVERTAKEN` times."""
        heads = {caller: line[0] for caller, line in self._lines.items() if line[0].overtaken >= MAX_OVERTAKEN}
        starving = {caller: head for caller, head in heads.items() if head.needs_no_room or may_take(head)}
        return max(starving, key=lambda caller: starving[caller].overtaken, default=None)

    def _needing_no_room(self, first: Hashable) -> list[Hashable]:
        return [caller for caller, line in self._lines.items() if caller != first and line[0].needs_no_room]

    def remove_if(self, unwanted: Callable[[AnyRequest], bool]) -> list[AnyRequest]:
        """Remove and return all requests that meet a condition, wherever they stand."""
        removed = []
        for caller, line in list(self._lines.items()):
            removed += [request for request in line if unwanted(request)]
            kept = deque(request for request in line if not unwanted(request))
            if kept:
                self._lines[caller] = kept
            else:
                del self._lines[caller]
        return removed

    def remove(self, requests: Sequence[AnyRequest]) -> None:
        """Remove these requests."""
        ids = set(map(id, requests))
        self.remove_if(lambda request: id(request) in ids)
