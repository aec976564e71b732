"""A function over many items in several processes, with the results in the order of the items."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

from searchlora.child_processes import end_with_parent, picklable
from searchlora.errors import TrainingError
from searchlora.threads import allowed_cpus

#: Fewer items are not worth a process.
_MIN_ITEMS = 2_000

#: Items of a task of a process.
_CHUNK = 256

#: Most processes; one of them renders thousands of rows per second.
_MAX_PROCESSES = 16

Item = TypeVar("Item")
Result = TypeVar("Result")

#: The function and the items, which a forked process finds in its memory.
_work: tuple[Callable[[Any], Any], Sequence[Any]] | None = None


def in_order(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int | None = None
) -> Generator[Result, None, None]:
    """The results for many items, computed by forked processes where there are several CPUs; else one by one.

    The processes inherit the function and the items, so neither is copied or pickled; results are. The first item that
    raises an error, in the order of the items, raises it here. The processes end when the generator is closed.

    Args:
        processes: None: one per CPU that this process may use.

    Raises:
        TrainingError: for a process that was killed.
        What the function raises.
    """
    global _work
    count = processes or min(_MAX_PROCESSES, allowed_cpus())
    if count < 2 or len(items) < _MIN_ITEMS or "fork" not in multiprocessing.get_all_start_methods() or _work:
        yield from map(function, items)
        return
    _work = function, items
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("fork"), _begin)
    try:
        starts = iter(range(0, len(items), _CHUNK))
        chunks = deque(pool.submit(_chunk, start) for start in islice(starts, 2 * count))
        while chunks:
            results, error = chunks.popleft().result()
            chunks.extend(pool.submit(_chunk, start) for start in islice(starts, 1))
            yield from results
            if error is not None:
                raise error
    except BrokenProcessPool:
        raise TrainingError(
            "a process that renders rows was killed", fix="Memory may have run out: free some, and try again."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
        _work = None


def _begin() -> None:
    """In a new process: end with the parent, and by its signals only."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the threads of a tokenizer do not outlive a fork


def _chunk(start: int) -> tuple[list[Any], BaseException | None]:
    """The results of a chunk up to the first error, and that error."""
    assert _work is not None
    function, items = _work
    results: list[Any] = []
    for item in items[start : start + _CHUNK]:
        try:
            results.append(function(item))
        except Exception as error:
            return results, picklable(error)
    return results, None
