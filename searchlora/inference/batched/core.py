"""Writing and scoring with one model and many adapters, for callers from any thread."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.inference.batched.forward import Forward
from searchlora.inference.batched.prefixes import Prefixes
from searchlora.inference.batched.reading import Reader
from searchlora.inference.batched.scheduler import Scheduler
from searchlora.inference.batched.slots import Slots
from searchlora.inference.batched.waiting import Limits, Work
from searchlora.inference.batched.writing import Writer


@dataclass(frozen=True)
class Stats:
    """How a core stands, and what it has done since it was made.

    Attributes:
        waiting, writing: Requests that wait; rows that write.
        steps, rows_stepped: Passes in which all rows that write wrote a token, and the rows in them.
        tokens_written, scored: Tokens; requests whose choices were scored.
        refused: Requests that found no room in the queue.
        prompt_tokens, prompt_tokens_reused: Of the prompts that were read; those that were kept from earlier ones.
        slot_hits, slot_misses, slot_evictions: Adapters found loaded, loaded, put out to make room.
        loaded: Names of the adapters that are loaded.
    """

    waiting: int
    writing: int
    steps: int
    rows_stepped: int
    tokens_written: int
    scored: int
    refused: int
    prompt_tokens: int
    prompt_tokens_reused: int
    slot_hits: int
    slot_misses: int
    slot_evictions: int
    loaded: tuple[str, ...]


class BatchedCore:
    """See `LocalEngine`, which is made of it.

    Args:
        model: One that `forward.fits`; it is taken over.
        fetch: Gives the checked folder of an adapter.
        slots: Adapters that are loaded at once.
        prefix_tokens: Of prompts' beginnings that are kept.
    """

    def __init__(
        self,
        model: Any,
        stop_id: int,
        fetch: Callable[[str], Path],
        *,
        slots: int,
        limits: Limits,
        prefix_tokens: int,
    ) -> None:
        forward = Forward(model)
        self.vocabulary = forward.vocabulary
        self._prefixes = Prefixes(prefix_tokens)
        self._reader = Reader(forward, self._prefixes, limits)
        self._slots = Slots(forward.projections, slots, fetch, self._prefixes.forget)
        self._scheduler = Scheduler(Writer(self._reader, stop_id), self._reader, self._slots, limits)

    def submit(self, works: Sequence[Work], caller: Hashable) -> None:
        """See `Scheduler.submit`."""
        self._scheduler.submit(works, caller)

    def finish(self, works: Sequence[Work]) -> None:
        """See `Scheduler.finish`; the works of one call are a line of their own."""
        self._scheduler.finish(works, object())

    def load(self, name: str) -> None:
        """Load an adapter, unless it is loaded. Raises as `Slots.load`."""
        self._run(lambda: self._slots.load(name))

    def unload(self, name: str) -> bool:
        """Whether the adapter was loaded. Raises `EngineError` while requests under way wear it."""
        return bool(self._run(lambda: self._slots.unload(name)))

    def stats(self) -> Stats:
        """As it stands."""
        scheduler, slots, prefixes = self._scheduler, self._slots, self._prefixes.counts
        counts = scheduler.counts
        return Stats(
            waiting=scheduler.waiting,
            writing=scheduler.writing,
            steps=counts.steps,
            rows_stepped=counts.rows_stepped,
            tokens_written=counts.tokens_written,
            scored=counts.scored,
            refused=counts.refused,
            prompt_tokens=prefixes.read,
            prompt_tokens_reused=prefixes.reused,
            slot_hits=slots.counts.hits,
            slot_misses=slots.counts.misses,
            slot_evictions=slots.counts.evictions,
            loaded=slots.loaded,
        )

    def close(self, seconds: float) -> None:
        """See `Scheduler.close`."""
        self._scheduler.close(seconds)

    def _run(self, errand: Callable[[], Any]) -> Any:
        work = Work(errand=errand)
        self.finish([work])
        return work.result.result()
