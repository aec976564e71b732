"""The encoders of a server: their adapters, and vectors computed in batches that requests share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from searchlora.adapters.load_check import check_base
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.errors import LoadCheckFailed, NotInStore, UsageError
from searchlora.extras import require
from searchlora.models.resolve import BaseModel, public_name, resolve
from searchlora.retrieval.encoder import Encoder, by_length
from searchlora.retrieval.shared_model import SharedModel, Vectors
from searchlora.server.api.work_queue import FairThreads, JobFuture

#: Texts of one request per forward pass; a cancelled job stops between two of them.
_BATCH_SIZE = 16

#: Requests that are in work at once, so that those with few texts share passes; one client has half of them.
_AT_ONCE = 16


@dataclass(frozen=True)
class Embedded:
    """Vectors of shape (texts, dimensions), and the tokens of all texts, special tokens included."""

    vectors: Vectors
    tokens: int


class ServedEncoders:
    """The encoders that the server was started with, and the store's adapters for them. Safe for threads."""

    def __init__(self, names: Sequence[str], store: Store, *, max_loaded: int = 4, max_waiting: int = 64) -> None:
        if names:
            require("sentence_transformers")
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
        self._max_loaded = max_loaded
        self._models: dict[Path, SharedModel] = {}  # least recently used first
        self._encoders: dict[str, Encoder] = {}
        self._loading = threading.Lock()
        share = max(1, max_waiting // 2)
        self._queue = FairThreads(_AT_ONCE, "searchlora-encoders", capacity=max_waiting, capacity_per_client=share)

    def pin(self, model: str) -> str:
        """The encoder or exact adapter version that a request's `model` means. Raises `InvalidName`, `NotInStore`."""
        return model if model in self.bases else self._store.pin(model)

    def submit(
        self,
        pinned: str,
        texts: Sequence[str],
        dimensions: int | None,
        *,
        documents: bool = False,
        truncate: bool = False,
        timeout: float | None = None,
        client_id: str | None = None,
    ) -> Future[Embedded]:
        """Request the vectors of texts without waiting; cancelling the future stops the job, also a running one."""

        def work(job: JobFuture[Embedded]) -> Embedded:
            encoder = self._encoder(pinned)
            job.check()  # loading may have taken long
            beginnings, tokens = [], 0
            for number, text in enumerate(texts, 1):
                beginning, length = _readable(encoder, pinned, text, number, truncate)
                beginnings.append(beginning)
                tokens += length
            # Errors of the encoder name it: use the request's name, not the folder of the base model.
            adapter = None if documents and encoder.query_only else encoder.adapter
            named = Encoder(encoder.shared, pinned, dimensions, adapter=adapter)
            order = by_length(np.array([len(text) for text in beginnings], dtype=np.int64))
            vectors = np.empty((len(texts), named.vector_dimensions), dtype=np.float32)
            for start in range(0, len(texts), _BATCH_SIZE):
                places = order[start : start + _BATCH_SIZE]
                vectors[places] = named.encode_together([beginnings[place] for place in places], job.check)
            return Embedded(vectors, tokens)

        return self._queue.submit(client_id, work, timeout)

    def _encoder(self, pinned: str) -> Encoder:
        with self._loading:
            if pinned not in self._encoders:
                self._encoders[pinned] = self._load(pinned)
            encoder = self._encoders[pinned]
            folder = next(folder for folder, model in self._models.items() if model is encoder.shared)
            self._models[folder] = self._models.pop(folder)
            return encoder

    def _load(self, pinned: str) -> Encoder:
        if pinned in self.bases:
            return Encoder.load(self.bases[pinned].name, shared=self._model)
        adapter = self._store.get(pinned)
        base = next((base for base in self.bases.values() if _fits(adapter, base)), None)
        if base is None:
            raise NotInStore(
                f"{pinned} is no adapter of an encoder of this server",
                fix=f"Its encoders: {', '.join(self.bases) or 'none, start it with --encoder'}.",
            )
        return Encoder.load(base.name, adapter=adapter, shared=self._model)

    def _model(self, folder: Path, load: Callable[[], SharedModel]) -> SharedModel:
        """The model of a folder, loaded in the place of the least recently used one if there are `max_loaded`."""
        if folder not in self._models:
            while len(self._models) >= self._max_loaded:  # evict first: the limit holds at every moment
                evicted = self._models.pop(next(iter(self._models)))
                self._encoders = {
                    name: encoder for name, encoder in self._encoders.items() if encoder.shared is not evicted
                }
                del evicted  # before the next one is loaded
            self._models[folder] = load()
        return self._models[folder]


def _readable(encoder: Encoder, name: str, text: str, number: int, truncate: bool) -> tuple[str, int]:
    """What an encoder reads of a text, and its number of tokens. Raises `UsageError` for a text that is too long."""
    limit = encoder.max_tokens
    beginning, length = encoder.readable(text)
    is_cut = len(beginning) < len(text)
    if limit is not None and not truncate and (is_cut or length > limit):
        has = f"{len(text):,} characters" if length <= limit else f"{length} tokens{' or more' if is_cut else ''}"
        raise UsageError(
            f"text {number} has {has}, and {name} reads {limit} tokens",
            fix="Shorten it, or let it be cut with 'truncate': true.",
        )
    return beginning, min(length, limit or length)


def _fits(adapter: StoredAdapter, base: BaseModel) -> bool:
    try:
        check_base(adapter.reference, adapter.manifest.base, base)
    except LoadCheckFailed:
        return False
    return True
