"""Fair queue: one first-in-first-out queue per client, served round robin, with a starvation guard."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence

from searchlora.inference.scheduling.requests import AnyRequest

#: Starvation guard: after this many requests have overtaken it, a request blocks the queue until it fits. At most one
#: request per decode step overtakes.
MAX_OVERTAKEN = 64


class FairQueue:
    """The queues of all clients; not thread-safe."""

    def __init__(self) -> None:
        self._queues: OrderedDict[Hashable, deque[AnyRequest]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, list(self._queues.values())))

    def length(self, client: Hashable) -> int:
        return len(self._queues.get(client, ()))

    def push(self, request: AnyRequest, client: Hashable) -> None:
        request.client = client
        self._queues.setdefault(client, deque()).append(request)

    @property
    def clients(self) -> list[Hashable]:
        """Clients with queued requests, the one whose turn it is first."""
        return list(self._queues)

    def admit(
        self,
        fits: Callable[[AnyRequest], bool],
        admitted: list[AnyRequest],
        may_take: Callable[[AnyRequest], bool] = lambda _: True,
    ) -> None:
        """Move requests from the heads of the queues to `admitted`, round robin, as long as one fits.

        A client that was served goes to the end of the rotation. `admitted` receives the requests one by one, so that
        an interrupt loses none.
        """
        first = self._starving_client(may_take)
        turn = deque(self._queues) if first is None else deque([first, *self._needing_no_room(first)])
        skipped: list[AnyRequest] = []
        while turn:
            client = turn.popleft()
            queue = self._queues[client]
            if not (queue[0].needs_no_room or may_take(queue[0])):
                continue
            if not (queue[0].needs_no_room or fits(queue[0])):
                skipped.append(queue[0])
                continue
            admitted.append(queue.popleft())
            self._queues.move_to_end(client)
            if queue:
                turn.append(client)
            else:
                del self._queues[client]
            for request in skipped:  # counted only when another request was admitted after it
                request.overtaken += 1
            skipped = []
            if client == first:  # the starving request fitted; the others share the remaining room
                first, turn = None, deque(self._queues)

    def _starving_client(self, may_take: Callable[[AnyRequest], bool]) -> Hashable | None:
        """The client whose head request was overtaken most often, if at least `MAX_OVERTAKEN` times."""
        heads = {client: queue[0] for client, queue in self._queues.items() if queue[0].overtaken >= MAX_OVERTAKEN}
        starving = {client: head for client, head in heads.items() if head.needs_no_room or may_take(head)}
        return max(starving, key=lambda client: starving[client].overtaken, default=None)

    def _needing_no_room(self, first: Hashable) -> list[Hashable]:
        return [client for client, queue in self._queues.items() if client != first and queue[0].needs_no_room]

    def remove_if(self, unwanted: Callable[[AnyRequest], bool]) -> list[AnyRequest]:
        removed = []
        for client, queue in list(self._queues.items()):
            removed += [request for request in queue if unwanted(request)]
            others = deque(request for request in queue if not unwanted(request))
            if others:
                self._queues[client] = others
            else:
                del self._queues[client]
        return removed

    def remove(self, requests: Sequence[AnyRequest]) -> None:
        ids = set(map(id, requests))
        self.remove_if(lambda request: id(request) in ids)
