"""Adapters that are packed in memory without a slot: read ahead for queued requests, or evicted and kept."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from searchlora.inference.batched.lora_layers import PackedGroup


@dataclass(frozen=True)
class PackedAdapter:
    """An adapter as the slots hold it, and its bytes."""

    groups: Sequence[PackedGroup]
    size: int


class AdapterCache:
    """Packed adapters by name; any thread may use it."""

    def __init__(self, read: Callable[[str], PackedAdapter], max_bytes: int, max_reading: int) -> None:
        self._read, self._max_bytes, self._max_reading = read, max_bytes, max_reading
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, PackedAdapter] = OrderedDict()  # least recently used first
        self._bytes = 0
        self._reading: dict[str, Future[PackedAdapter]] = {}  # those that are read move to `_kept`
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
        """Read an adapter ahead for a request, unless it is loaded or kept, or expected ones fill the memory."""
        if not self._max_bytes:
            return
        future = None
        with self._lock:
            self._expected[name] += 1
            known = is_loaded or name in self._kept or name in self._reading
            if not known and len(self._reading) < self._max_reading and self._has_room:
                with suppress(RuntimeError):  # no thread can be started: the computing thread reads it
                    future = self._reading[name] = self._reader.submit(self._read, name)
        if future is not None:
            future.add_done_callback(partial(self._was_read, name))
        result.add_done_callback(lambda _: self._done(name))

    @property
    def _has_room(self) -> bool:
        """Whether an adapter of the largest expected size has room beside those that are expected or being read."""
        sizes = [self._kept[name].size for name in self._expected if name in self._kept]
        return sum(sizes) + (len(self._reading) + 1) * max(sizes, default=0) <= self._max_bytes

    def _was_read(self, name: str, future: Future[PackedAdapter]) -> None:
        """Keep an adapter that was read ahead, unless it was taken or dropped meanwhile. An error stays for the
        requests that it was for, and no longer.
        """
        with self._lock:
            failed = future.cancelled() or future.exception() is not None
            if self._reading.get(name) is not future or (failed and name in self._expected):
                return
            del self._reading[name]
            if not failed:
                self._keep(name, future.result())

    def _done(self, name: str) -> None:
        with self._lock:
            self._expected[name] -= 1
            if self._expected[name]:
                return
            del self._expected[name]
            future = self._reading.get(name)
            if future is not None and future.done():
                del self._reading[name]
        if future is not None:
            future.cancel()  # unless it is being read already

    def take(self, name: str) -> PackedAdapter:
        """An adapter that gets a slot, read now if needed. Raises what reading raises."""
        with self._lock:
            kept, future = self._pop(name), self._reading.pop(name, None)
        if kept is not None:
            return kept
        # A reading that has not begun waits for others, which nobody may need now.
        return self._read(name) if future is None or future.cancel() else future.result()

    def keep(self, name: str, packed: PackedAdapter) -> None:
        """Keep an adapter that has no slot, if there is room for it."""
        with self._lock:
            self._keep(name, packed)

    def drop(self, name: str) -> None:
        """Forget an adapter, whose name may get another meaning, and what is being read of it."""
        with self._lock:
            self._pop(name)
            self._reading.pop(name, None)

    def _keep(self, name: str, packed: PackedAdapter) -> None:
        self._pop(name)
        if packed.size > self._max_bytes:
            return
        self._kept[name] = packed
        self._bytes += packed.size
        while self._bytes > self._max_bytes:
            self._pop(next((old for old in self._kept if not self.is_expected(old)), name))

    def _pop(self, name: str) -> PackedAdapter | None:
        packed = self._kept.pop(name, None)
        self._bytes -= packed.size if packed is not None else 0
        return packed
