"""A bounded number of places for adapters; the one that was used longest ago makes room."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path

from searchlora.errors import EngineBusy, EngineError
from searchlora.inference.batched.lora_layers import Projections
from searchlora.inference.batched.lora_mapping import BARE
from searchlora.inference.batched.lora_weights import read_changes
from searchlora.inference.scheduling.engine_core import Counts


class Slots:
    """Adapters that are loaded, by name; for the engine's thread alone.

    Args:
        projections: Of the model; what an adapter does goes there.
        count: How many adapters at most.
        fetch: Gives the plain PEFT folder of an adapter, checked; called when one is loaded.
        forgotten: Called with the name of an adapter whose slot is given to another, or that is unloaded.
        counts: Where hits, misses and evictions are counted.
    """

    def __init__(
        self,
        projections: Projections,
        count: int,
        fetch: Callable[[str], Path],
        forgotten: Callable[[str], None],
        counts: Counts,
    ) -> None:
        self.count = count
        self._counts = counts
        self._projections = projections
        self._fetch, self._forgotten = fetch, forgotten
        self.loaded: tuple[str, ...] = ()  # names; for any thread to read
        self._slot_of: OrderedDict[str, int] = OrderedDict()  # the one used longest ago first
        self._worn: Counter[str] = Counter()  # name -> rows under way that wear it
        self._room, self._rank = 0, 0

    @property
    def worn(self) -> frozenset[str]:
        """Names of those that rows under way wear."""
        return frozenset(self._worn)

    def wear(self, name: str | None) -> int:
        """The slot of an adapter (None: of the bare base), which is loaded where it is not, and stays until `doff`.

        Raises:
            StoreError: what `fetch` raises, and for an adapter that does not fit the base; nothing was changed.
            EngineBusy: when rows under way wear all slots.
        """
        if name is None:
            return BARE
        slot = self.load(name)
        self._worn[name] += 1
        return slot

    def doff(self, name: str | None) -> None:
        """A row that wore the adapter is done."""
        if name is not None:
            self._worn[name] -= 1
            if not self._worn[name]:
                del self._worn[name]

    def load(self, name: str) -> int:
        """The slot of an adapter; raises as `wear`."""
        if name in self._slot_of:
            self._counts.slot_hits += 1
        else:
            self._load(name)
        self._slot_of.move_to_end(name)
        return self._slot_of[name]

    def unload(self, name: str) -> bool:
        """Whether the adapter was loaded. Raises `EngineError` while rows under way wear it."""
        if name not in self._slot_of:
            return False
        if name in self._worn:
            raise EngineError("is in use", where=name, fix="Try again when its requests are done.")
        self._put_out(name)
        return True

    def _load(self, name: str) -> None:
        changes = read_changes(self._fetch(name), self._projections)
        slot = self._free()
        self._make_room(slot, max(len(change.a) for change in changes.values()))
        self._projections.put(slot, changes)
        self._slot_of[name] = slot
        self.loaded = tuple(self._slot_of)
        self._counts.slot_misses += 1

    def _free(self) -> int:
        used = set(self._slot_of.values())
        free = next((slot for slot in range(1, self.count + 1) if slot not in used), None)
        if free is not None:
            return free
        name = next((name for name in self._slot_of if name not in self._worn), None)
        if name is None:
            raise EngineBusy(
                f"rows under way wear all {self.count} adapters that fit", fix="Try again later, or make more slots."
            )
        slot = self._slot_of[name]
        self._put_out(name)
        self._counts.slot_evictions += 1
        return slot

    def _put_out(self, name: str) -> None:
        del self._slot_of[name]
        self.loaded = tuple(self._slot_of)
        self._forgotten(name)

    def _make_room(self, slot: int, rank: int) -> None:
        """Slots are laid out as they come to be used, and as wide as the widest adapter so far."""
        if slot < self._room and rank <= self._rank:
            return
        room = max(self._room, min(self.count + 1, max(slot + 1, 2 * self._room)))
        rank = max(self._rank, rank)
        self._projections.make_room(room, rank)
        self._room, self._rank = room, rank
