"""A function over many items in several processes, with the results in the order of the items."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from searchlora.errors import SearchloraError

#: Fewer items are not worth a process.
_MIN_ITEMS = 2_000

#: Items of a task of a process.
_CHUNK = 256

Item = TypeVar("Item")
Result = TypeVar("Result")

#: The function and the items, which a forked process finds in its memory.
_work: tuple[Callable[[Any], Any], Sequence[Any]] | None = None


def in_order(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int | None = None
) -> Iterator[Result]:
    """The results for many items, computed by forked processes where there are several CPUs; else one by one.

    The processes inherit the function and the items, so neither is copied or pickled; results are. The first item that
    raises a `SearchloraError`, in the order of the items, raises it here.

    Args:
        processes: None: one per CPU that this process may use.
    """
    global _work
    count = processes or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    if count < 2 or len(items) < _MIN_ITEMS or "fork" not in multiprocessing.get_all_start_methods() or _work:
        yield from map(function, items)
        return
    _work = function, items
    try:
        with multiprocessing.get_context("fork").Pool(count) as pool:
            for results, error in pool.imap(_chunk, range(0, len(items), _CHUNK)):
                yield from results
                if error is not None:
                    raise error[0](error[1], where=error[2], fix=error[3])
    finally:
        _work = None


def _chunk(start: int) -> tuple[list[Any], tuple[type[SearchloraError], str, str | None, str | None] | None]:
    """The results of a chunk up to the first error, and its parts: an error with keyword arguments does not pickle."""
    assert _work is not None
    function, items = _work
    results: list[Any] = []
    for item in items[start : start + _CHUNK]:
        try:
            results.append(function(item))
        except SearchloraError as error:
            return results, (type(error), error.what, error.where, error.fix)
    return results, None
