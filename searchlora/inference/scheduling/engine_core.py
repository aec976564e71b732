"""What an engine is made of: a machine that computes, adapters in its slots, and the scheduler before it."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol
from weakref import WeakSet

from searchlora.inference.scheduling.requests import Limits, Work
from searchlora.inference.scheduling.scheduler import Machine, Scheduler

#: Seconds that what is under way may take when the interpreter ends.
_AT_EXIT = 1.0


@dataclass
class Counts:
    """What a machine has done since it was made.

    Attributes:
        steps, rows_stepped: Passes in which all rows that write wrote a token, and the rows in them.
        tokens_written, scored: Tokens; requests whose choices were scored.
        prompt_tokens, prompt_tokens_reused: Of the prompts that were read; those that were kept from earlier ones.
        slot_hits, slot_misses, slot_evictions: Adapters found loaded, loaded, put out to make room.
    """

    steps: int = 0
    rows_stepped: int = 0
    tokens_written: int = 0
    scored: int = 0
    prompt_tokens: int = 0
    prompt_tokens_reused: int = 0
    slot_hits: int = 0
    slot_misses: int = 0
    slot_evictions: int = 0


@dataclass
class Stats(Counts):
    """The same, and how an engine stands.

    Attributes:
        waiting, writing: Requests that wait; rows that write.
        refused: Requests that found no room in the queue.
        loaded: Names of the adapters that are loaded.
    """

    waiting: int = 0
    writing: int = 0
    refused: int = 0
    loaded: tuple[str, ...] = ()


class Adapters(Protocol):
    """The adapters that a machine has loaded; for the computing thread alone, but for `loaded`."""

    loaded: tuple[str, ...]

    def load(self, name: str) -> object:
        """Load an adapter, unless it is; the one used longest ago makes room. Raises `StoreError`, `EngineBusy`."""

    def unload(self, name: str) -> bool:
        """Whether the adapter was loaded. Raises `EngineError` while requests under way wear it."""


#: All cores. A thread that computes while the interpreter ends would end the process with an abort.
_open: WeakSet[Core] = WeakSet()


@atexit.register
def _close_all() -> None:
    for core in list(_open):
        core.close(_AT_EXIT)


class Core:
    """See `LocalEngine`, which is made of it.

    Attributes:
        vocabulary: How many logits the model gives.
    """

    def __init__(self, machine: Machine, adapters: Adapters, counts: Counts, limits: Limits, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self._machine, self._adapters, self._counts = machine, adapters, counts
        self._scheduler = Scheduler(machine, limits)
        _open.add(self)

    def submit(self, works: Sequence[Work], caller: Hashable) -> None:
        """See `Scheduler.submit`."""
        self._scheduler.submit(works, caller)

    def finish(self, works: Sequence[Work]) -> None:
        """See `Scheduler.finish`; the works of one call are a line of their own."""
        self._scheduler.finish(works, object())

    def load(self, name: str) -> None:
        """See `Adapters.load`."""
        self.run(lambda: self._adapters.load(name))

    def unload(self, name: str) -> bool:
        """See `Adapters.unload`."""
        return bool(self.run(lambda: self._adapters.unload(name)))

    def replace(self, name: str, change: Callable[[], Callable[[], object]]) -> None:
        """Unload an adapter, change what its name means, and load it; no request comes between.

        Args:
            change: Gives what undoes it, which is called where the adapter cannot be loaded.
        """

        def errand() -> None:
            self._adapters.unload(name)
            undo = change()
            try:
                self._adapters.load(name)
            except BaseException:
                undo()
                raise

        self.run(errand)

    def run(self, errand: Callable[[], Any]) -> Any:
        """Between two passes, in the thread that computes; what it gave or raised."""
        work = Work(errand=errand)
        self.finish([work])
        return work.result.result()

    def stats(self) -> Stats:
        """As it stands."""
        scheduler = self._scheduler
        return Stats(
            **asdict(self._counts),
            waiting=scheduler.waiting,
            writing=sum(work.answers is None for work in list(self._machine.under_way)),
            refused=scheduler.refused,
            loaded=self._adapters.loaded,
        )

    def close(self, seconds: float) -> None:
        """See `Scheduler.close`."""
        self._scheduler.close(seconds)
