"""LoRA slots: loaded adapters, bounded in number and bytes; the least recently used one is evicted first.

An adapter that was evicted stays packed in memory, within `adapter_cache_bytes`: loading it again sets pointers. What a
queued request needs is read and packed by a thread of its own while others are computed (`expect`).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from searchlora.cpu.backend import release_free_memory
from searchlora.errors import EngineBusy, EngineError, LoadCheckFailed
from searchlora.inference.batched.adapter_cache import AdapterCache, PackedAdapter
from searchlora.inference.batched.lora_layers import BASE_SLOT, LoraLayers
from searchlora.inference.batched.lora_weights import read_lora_weights, read_ranks
from searchlora.inference.scheduling.engine_core import Counts
from searchlora.inference.scheduling.requests import AnyRequest, ModelRequest
from searchlora.inference.settings import LocalSettings


class LoraSlots:
    """Loaded adapters by name; used by the computing thread only."""

    def __init__(
        self,
        layers: LoraLayers,
        settings: LocalSettings,
        fetch: Callable[[str], AbstractContextManager[Path]],
        on_unload: Callable[[str], None],
        counts: Counts,
    ) -> None:
        self.count = settings.max_loras
        self._max_bytes = settings.adapter_bytes
        self._counts = counts
        self._layers = layers
        self._fetch, self._on_unload = fetch, on_unload
        self.loaded: tuple[str, ...] = ()
        self._cache = AdapterCache(self._read, settings.adapter_cache_bytes, 2 * self.count)
        self._slot_of: OrderedDict[str, int] = OrderedDict()  # least recently used first
        self._users: Counter[str] = Counter()  # name -> running rows that use it
        self._packed: dict[str, PackedAdapter] = {}  # of each loaded adapter

    @property
    def in_use(self) -> frozenset[str]:
        return frozenset(self._users)

    @property
    def reading(self) -> frozenset[str]:
        """Adapters that are being read for queued requests."""
        return self._cache.reading

    def expect(self, requests: Iterable[AnyRequest]) -> None:
        """Read the adapters of queued requests ahead; any thread may call it."""
        for request in requests:
            if isinstance(request, ModelRequest) and request.adapter is not None:
                self._cache.expect(request.adapter, request.result, is_loaded=request.adapter in self.loaded)

    def acquire(self, name: str | None) -> int:
        """The slot of an adapter (None: of the base model); it is loaded if needed, and stays until `release`."""
        if name is None:
            return BASE_SLOT
        slot = self.load(name)
        self._users[name] += 1
        return slot

    def release(self, name: str | None) -> None:
        if name is not None:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name]

    def load(self, name: str) -> int:
        """The slot of an adapter, which is loaded if needed. Raises as `acquire`."""
        if name in self._slot_of:
            self._counts.slot_hits += 1
        else:
            self._load(name)
        self._slot_of.move_to_end(name)
        return self._slot_of[name]

    def unload(self, name: str) -> bool:
        """Unload an adapter; False if it was not loaded. Raises `EngineError` while running rows use it."""
        self._cache.drop(name)
        if name not in self._slot_of:
            return False
        if name in self._users:
            raise EngineError("is in use", where=name, fix="Try again when its requests are done.")
        self._remove(name)
        release_free_memory()
        return True

    def _load(self, name: str) -> None:
        packed = self._cache.take(name)
        try:
            slot = self._free_slot(packed.size)
        except EngineBusy:
            self._cache.keep(name, packed)
            raise
        self._layers.put(slot, packed.groups)
        self._slot_of[name], self._packed[name] = slot, packed
        self.loaded = tuple(self._slot_of)
        self._counts.slot_misses += 1

    def _read(self, name: str) -> PackedAdapter:
        with self._fetch(name) as folder:
            size = self._checked_size(name, folder)
            return PackedAdapter(self._layers.pack(read_lora_weights(folder, self._layers)), size)

    def _checked_size(self, name: str, folder: Path) -> int:
        """Bytes of an adapter in a slot, from the shapes of its weights. Raises `LoadCheckFailed` above a limit."""
        size = self._layers.size(read_ranks(folder))
        if size > self._max_bytes:
            raise LoadCheckFailed(
                f"takes {size >> 20:,} MiB, more than the {self._max_bytes >> 20:,} MiB for all adapters",
                where=name,
                fix="Train it with a lower rank or on fewer layers, or raise 'adapter_bytes'.",
            )
        return size

    def _free_slot(self, size: int) -> int:
        """A free slot, with memory for this many bytes beside the other adapters; unused adapters are evicted."""
        while len(self._slot_of) >= self.count or self._loaded_bytes + size > self._max_bytes:
            unused = [name for name in self._slot_of if name not in self._users]
            if not unused:
                raise EngineBusy(
                    f"running requests use all {self.count} LoRA slots, or the memory for adapters",
                    fix="Try again later, or make more slots.",
                )
            name = next((name for name in unused if not self._cache.is_expected(name)), unused[0])
            self._cache.keep(name, self._packed[name])
            self._remove(name)
            self._counts.slot_evictions += 1
        used = set(self._slot_of.values())
        return next(slot for slot in range(1, self.count + 1) if slot not in used)

    @property
    def _loaded_bytes(self) -> int:
        return sum(packed.size for packed in self._packed.values())

    def _remove(self, name: str) -> None:
        self._layers.clear(self._slot_of.pop(name))
        del self._packed[name]
        self.loaded = tuple(self._slot_of)
        self._on_unload(name)
