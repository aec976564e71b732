"""How often a caller may ask: token buckets."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

#: Callers that are remembered; who was forgotten begins with a full bucket.
_CALLERS = 10_000


class Rates:
    """A bucket for each caller: full at first, refilled steadily, one out for each request. For one thread.

    Args:
        per_minute: What a full bucket holds, and what comes in in a minute.
        clock: Seconds that only grow.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = per_minute
        self._clock = clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # what is left, and since when

    def wait(self, caller: Hashable) -> int:
        """Whole seconds until the caller may ask; 0: now, and that is counted."""
        now = self._clock()
        left, since = self._buckets.pop(caller, (float(self._most), now))
        left = min(self._most, left + (now - since) * self._most / 60)
        wait = 0 if left >= 1 else math.ceil((1 - left) * 60 / self._most)
        self._buckets[caller] = (left if wait else left - 1, now)
        if len(self._buckets) > _CALLERS:
            self._buckets.popitem(last=False)
        return wait
