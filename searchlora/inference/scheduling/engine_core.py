"""Engine core: scheduler, model runner and loaded adapters of one in-process engine."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Protocol, TypeVar
from weakref import WeakSet

from searchlora.errors import EngineError
from searchlora.inference.scheduling.requests import AnyRequest, CallbackRequest, GenerateRequest, Limits
from searchlora.inference.scheduling.scheduler import ModelRunner, Scheduler

Result = TypeVar("Result")

#: Seconds that running requests may take when the interpreter exits.
_AT_EXIT = 1.0


@dataclass
class Counts:
    """Counters of a model runner since its creation."""

    decode_steps: int = 0
    decoded_rows: int = 0
    generated_tokens: int = 0
    scored_requests: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0  # prompt tokens that came from the prefix cache
    slot_hits: int = 0
    slot_misses: int = 0
    slot_evictions: int = 0


@dataclass
class Stats(Counts):
    """The counters and the current state of an engine."""

    waiting: int = 0
    generating: int = 0
    refused: int = 0
    loaded: tuple[str, ...] = ()


class LoadedAdapters(Protocol):
    """The adapters that a model runner holds. Only the computing thread uses it; any thread may read `loaded`."""

    loaded: tuple[str, ...]

    def expect(self, requests: Iterable[AnyRequest]) -> None:
        """Prepare for requests that are queued; any thread may call it."""

    def load(self, name: str) -> object:
        """Load an adapter unless it is loaded; the least recently used one is evicted if needed.

        Raises:
            StoreError: for an adapter that is missing or must not be loaded.
            EngineBusy: when running requests use all slots.
        """

    def unload(self, name: str) -> bool:
        """Unload an adapter; False if it was not loaded. Raises `EngineError` while running requests use it."""


#: All open cores. A thread that computes while the interpreter exits would abort the process.
_open: WeakSet[EngineCore] = WeakSet()


@atexit.register
def _close_all() -> None:
    for core in list(_open):
        core.close(_AT_EXIT)


class EngineCore(Scheduler):
    """A scheduler with the loaded adapters and the counters of its model runner: what `LocalEngine` delegates to."""

    def __init__(
        self, runner: ModelRunner, adapters: LoadedAdapters, counts: Counts, limits: Limits, vocabulary: int
    ) -> None:
        super().__init__(runner, limits)
        self.vocabulary = vocabulary
        self._adapters, self._counts = adapters, counts
        _open.add(self)

    @property
    def loaded(self) -> tuple[str, ...]:
        return self._adapters.loaded

    def submit(self, requests: Sequence[AnyRequest], client: Hashable) -> None:
        super().submit(requests, client)
        self._adapters.expect(requests)

    def finish(self, requests: Sequence[AnyRequest]) -> None:
        self._adapters.expect(requests)
        super().finish(requests)

    def load(self, name: str) -> None:
        self.run(lambda: self._adapters.load(name))

    def unload(self, name: str) -> bool:
        return self.run(lambda: self._adapters.unload(name))

    def replace(self, name: str, change: Callable[[], Callable[[], object]]) -> None:
        """Change the meaning of an adapter's name, and load it anew; no request runs in between.

        `change` returns its undo function, which is called if unloading or loading fails. Weights that were read ahead
        with the other meaning are forgotten, so the change comes first.
        """

        def callback() -> None:
            undo = change()
            try:
                self._adapters.unload(name)
                self._adapters.load(name)
            except BaseException:
                undo()
                with suppress(EngineError):  # running requests use it
                    self._adapters.unload(name)
                raise

        self.run(callback)

    def run(self, callback: Callable[[], Result]) -> Result:
        """Call a function in the computing thread, between two forward passes; return or raise what it does."""
        request: CallbackRequest[Result] = CallbackRequest(callback=callback)
        self.finish([request])
        return request.result.result()

    def stats(self) -> Stats:
        running = list(self._runner.running)
        return Stats(
            **asdict(self._counts),
            waiting=self.waiting,
            generating=sum(isinstance(request, GenerateRequest) for request in running),
            refused=self.refused,
            loaded=self._adapters.loaded,
        )
