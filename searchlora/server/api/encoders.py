"""Encoders of texts, bare and with adapters, each loaded when it is first asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from searchlora.adapters.load_check import check_base
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.errors import LoadCheckFailed, NotInStore, UsageError
from searchlora.models.catalogue import public_name
from searchlora.models.resolve import BaseModel, resolve
from searchlora.retrieval.encoder import Encoder, Vectors
from searchlora.server.api.threads import Errand, Line


@dataclass(frozen=True)
class Embedded:
    """Vectors of texts (texts, dimensions), and how many tokens the texts had, special ones included."""

    vectors: Vectors
    tokens: int


class Encoders:
    """The encoders that a server was started with, and the store's adapters of them. Safe for threads.

    Args:
        names: As `resolve` takes them; requests name them without their paths.
        loaded: Copies in memory at most, an adapter's copy being a whole encoder.
        waiting: Requests that wait or are computed at most; they are computed one after the other.

    Raises:
        BaseModelError: for one that is not there.
        UsageError: for two that requests would call by one name.
    """

    def __init__(self, names: Sequence[str], store: Store, *, loaded: int = 4, waiting: int = 64) -> None:
        self.bases: dict[str, BaseModel] = {}
        for name in names:
            base = resolve(name)
            if self.bases.setdefault(public_name(name), base) != base:
                raise UsageError(
                    f"two encoders would both be called '{public_name(name)}'",
                    where=name,
                    fix="Rename the folder of one: requests name an encoder by the last part of its path.",
                )
        self._store = store
        self._most = loaded
        self._loaded: OrderedDict[str, Encoder] = OrderedDict()  # the one used longest ago first
        self._line = Line(waiting)

    def pinned(self, model: str) -> str:
        """The base or the exact adapter that a request's `model` means now. Raises `InvalidName`, `NotInStore`."""
        return model if model in self.bases else self._store.pin(model)

    def submit(
        self, pinned: str, texts: Sequence[str], dimensions: int | None, *, cut: bool, seconds: float | None = None
    ) -> Future[Embedded]:
        """Ask for the vectors of texts without waiting for them; cancelling the future takes back what has not begun.

        Args:
            dimensions: As for `Encoder`.
            cut: What is too long; else it is refused.
            seconds: Until it must be done.

        Raises:
            EngineBusy: when too many requests wait already. The future raises what follows.
            DeadlineExceeded: when it is not done in time; it is not computed any further then.
            NotInStore: for an adapter of another base.
            LoadCheckFailed: for an adapter that must not be loaded.
            UsageError: for a text that is too long, and for too many dimensions.
        """
        return self._line.put(lambda errand: self._encode(errand, pinned, texts, dimensions, cut), seconds)

    def _encode(self, errand: Errand, pinned: str, texts: Sequence[str], dimensions: int | None, cut: bool) -> Embedded:
        encoder = self._encoder(pinned)
        errand.check_time()  # loading may have taken long
        lengths = [encoder.tokens(text) for text in texts]
        most = encoder.max_tokens
        if most is not None and not cut and max(lengths) > most:
            place = next(place for place, length in enumerate(lengths) if length > most)
            raise UsageError(
                f"text {place + 1} has {lengths[place]} tokens, and {pinned} reads {most}",
                fix="Shorten it, or let it be cut with 'truncate': true.",
            )
        # Named as requests name it: errors would tell the folder of a base that lies in one.
        named = Encoder(encoder.model, pinned, dimensions)
        vectors = named.encode(texts, progress=lambda *_: errand.check_time())
        return Embedded(vectors, sum(min(length, most or length) for length in lengths))

    def _encoder(self, pinned: str) -> Encoder:
        if pinned not in self._loaded:
            while len(self._loaded) >= self._most:  # room first: there are never more than that in memory
                self._loaded.popitem(last=False)
            self._loaded[pinned] = self._load(pinned)
        self._loaded.move_to_end(pinned)
        return self._loaded[pinned]

    def _load(self, pinned: str) -> Encoder:
        if pinned in self.bases:
            return Encoder.load(self.bases[pinned].name)
        adapter = self._store.get(pinned)
        base = next((base for base in self.bases.values() if _fits(adapter, base)), None)
        if base is None:
            raise NotInStore(
                f"{pinned} is no adapter of an encoder of this server",
                fix=f"Its encoders: {', '.join(self.bases) or 'none, start it with --encoder'}.",
            )
        return Encoder.load(base.name, adapter=adapter)


def _fits(adapter: StoredAdapter, base: BaseModel) -> bool:
    try:
        check_base(adapter.reference, adapter.manifest.base, base)
    except LoadCheckFailed:
        return False
    return True
