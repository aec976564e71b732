"""Adapters that are packed in memory without a slot: read ahead for queued requests, or evicted and kept."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from searchlora.inference.batched.lora_layers import PackedAdapter


@dataclass(frozen=True)
class Packed:
    """An adapter as the slots hold it, and its bytes."""

    parts: Sequence[PackedAdapter]
    size: int


class PackedAdapters:
    """Packed adapters by name; any thread may use it.

    Args:
        read: Reads and packs an adapter.
        max_bytes: Memory for adapters without a slot; beyond it, the least recently used one is dropped. 0: none is
            kept or read ahead.
        max_reading: Number of adapters that are read ahead at once.
    """

    def __init__(self, read: Callable[[str], Packed], max_bytes: int, max_reading: int) -> None:
        self._read, self._max_bytes, self._max_reading = read, max_bytes, max_reading
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Packed] = OrderedDict()  # least recently used first
        self._bytes = 0
        self._reading: dict[str, Future[Packed]] = {}
        self._expected: Counter[str] = Counter()  # name -> requests that are not done
        self._reader = ThreadPoolExecutor(1, "searchlora-adapters")  # its thread starts with the first adapter

    @property
    def reading(self) -> frozenset[str]:
        """Adapters that are being read."""
        with self._lock:
            return frozenset(name for name, future in self._reading.items() if not future.done())

    def is_expected(self, name: str) -> bool:
        """Whether requests for the adapter are not done."""
        return self._expected[name] > 0

    def expect(self, name: str, result: Future[Any], *, is_loaded: bool) -> None:
        """Read an adapter ahead for a request, unless it is loaded or kept."""
        if not self._max_bytes:
            return
        with self._lock:
            self._expected[name] += 1
            known = is_loaded or name in self._kept or name in self._reading
            if not known and len(self._reading) < self._max_reading:
                with suppress(RuntimeError):  # no thread can be started: the computing thread reads it
                    self._reading[name] = self._reader.submit(self._read, name)
        result.add_done_callback(lambda _: self._done(name))

    def _done(self, name: str) -> None:
        with self._lock:
            self._expected[name] -= 1
            if self._expected[name]:
                return
            del self._expected[name]
            future = self._reading.get(name)
            if future is None or not (future.cancel() or future.done()):
                return
            del self._reading[name]  # nobody has taken it; an error must not outlive the requests that it was for
        if not future.cancelled() and future.exception() is None:
            self.keep(name, future.result())

    def take(self, name: str) -> Packed:
        """An adapter that gets a slot, read now if needed. Raises what reading raises."""
        with self._lock:
            kept, future = self._kept.pop(name, None), self._reading.pop(name, None)
            self._bytes -= kept.size if kept is not None else 0
        if kept is not None:
            return kept
        return self._read(name) if future is None or future.cancelled() else future.result()

    def keep(self, name: str, packed: Packed) -> None:
        """Keep an adapter that has no slot, if there is room for it."""
        if packed.size > self._max_bytes:
            return
        self.drop(name)
        with self._lock:
            self._kept[name] = packed
            self._bytes += packed.size
            while self._bytes > self._max_bytes:
                self._bytes -= self._kept.popitem(last=False)[1].size

    def drop(self, name: str) -> None:
        """Forget an adapter, whose name may get another meaning."""
        with self._lock:
            kept = self._kept.pop(name, None)
            self._reading.pop(name, None)
            self._bytes -= kept.size if kept is not None else 0
