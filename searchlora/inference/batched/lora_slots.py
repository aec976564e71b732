"""LoRA slots: a bounded number of loaded adapters, the least recently used one evicted first."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path

from searchlora.errors import EngineBusy, EngineError
from searchlora.inference.batched.lora_layers import LoraLayers
from searchlora.inference.batched.lora_mapping import BASE_SLOT
from searchlora.inference.batched.lora_weights import read_lora_weights
from searchlora.inference.scheduling.engine_core import Counts


class LoraSlots:
    """Loaded adapters by name; used by the computing thread only.

    Args:
        layers: The model's layers, which hold the weights.
        count: Maximum number of loaded adapters.
        fetch: Returns the checked PEFT folder of an adapter; called when one is loaded.
        on_unload: Called with the name of an adapter that is evicted or unloaded.
        counts: Where hits, misses and evictions are counted.

    Attributes:
        loaded: Names of the loaded adapters; any thread may read it.
    """

    def __init__(
        self,
        layers: LoraLayers,
        count: int,
        fetch: Callable[[str], Path],
        on_unload: Callable[[str], None],
        counts: Counts,
    ) -> None:
        self.count = count
        self._counts = counts
        self._layers = layers
        self._fetch, self._on_unload = fetch, on_unload
        self.loaded: tuple[str, ...] = ()
        self._slot_of: OrderedDict[str, int] = OrderedDict()  # least recently used first
        self._users: Counter[str] = Counter()  # name -> running rows that use it
        self._reserved_slots, self._reserved_rank = 0, 0

    @property
    def in_use(self) -> frozenset[str]:
        """Names of the adapters that running rows use."""
        return frozenset(self._users)

    def acquire(self, name: str | None) -> int:
        """The slot of an adapter (None: of the base model); it is loaded if needed, and stays until `release`.

        Raises:
            StoreError: from `fetch`, or for an adapter that does not fit the base; nothing was changed.
            EngineBusy: when running rows use all slots.
        """
        if name is None:
            return BASE_SLOT
        slot = self.load(name)
        self._users[name] += 1
        return slot

    def release(self, name: str | None) -> None:
        """End one use of an adapter."""
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
        if name not in self._slot_of:
            return False
        if name in self._users:
            raise EngineError("is in use", where=name, fix="Try again when its requests are done.")
        self._remove(name)
        return True

    def _load(self, name: str) -> None:
        weights = read_lora_weights(self._fetch(name), self._layers)
        slot = self._free_slot()
        self._reserve(slot, max(len(each.a) for each in weights.values()))
        self._layers.put(slot, weights)
        self._slot_of[name] = slot
        self.loaded = tuple(self._slot_of)
        self._counts.slot_misses += 1

    def _free_slot(self) -> int:
        used = set(self._slot_of.values())
        free = next((slot for slot in range(1, self.count + 1) if slot not in used), None)
        if free is not None:
            return free
        name = next((name for name in self._slot_of if name not in self._users), None)
        if name is None:
            raise EngineBusy(
                f"running requests use all {self.count} LoRA slots", fix="Try again later, or make more slots."
            )
        slot = self._slot_of[name]
        self._remove(name)
        self._counts.slot_evictions += 1
        return slot

    def _remove(self, name: str) -> None:
        del self._slot_of[name]
        self.loaded = tuple(self._slot_of)
        self._on_unload(name)

    def _reserve(self, slot: int, rank: int) -> None:
        """Slots are allocated as they are first used, as wide as the highest rank so far."""
        if slot < self._reserved_slots and rank <= self._reserved_rank:
            return
        slots = max(self._reserved_slots, min(self.count + 1, max(slot + 1, 2 * self._reserved_slots)))
        rank = max(self._reserved_rank, rank)
        self._layers.reserve(slots, rank)
        self._reserved_slots, self._reserved_rank = slots, rank
