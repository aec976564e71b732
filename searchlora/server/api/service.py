"""The service that all routes share: the engine, the store, the encoders, the pipelines, and threads."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from logging.handlers import QueueListener
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from searchlora.adapters.store import Store
from searchlora.errors import RenderError
from searchlora.events.recorder import EventRecorder
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.models.fingerprint import Fingerprint, fingerprint
from searchlora.models.resolve import public_name
from searchlora.server.api.adapter_tasks import AdapterTask, task_reader
from searchlora.server.api.config import ServeConfig
from searchlora.server.api.encoders import ServedEncoders
from searchlora.server.api.errors import ApiError
from searchlora.server.api.metrics import Metrics
from searchlora.server.api.served_pipelines import ServedPipelines
from searchlora.server.api.work_queue import FairThreads, in_thread
from searchlora.server.grading.search_grades import SearchGrades

if TYPE_CHECKING:
    from searchlora.server.api.shadow import ShadowSearches

T = TypeVar("T")

#: Worker threads for blocking work of requests: parsing, tokenising, store reads, encoding of large responses.
_THREADS = 8

#: Worker threads of task requests. They wait most of the time; one client has at most half of them.
_TASK_THREADS = 64


@dataclass(frozen=True)
class Service:
    """An engine with its adapter store, the encoders, and the settings."""

    engine: LocalEngine
    store: Store
    encoders: ServedEncoders
    config: ServeConfig
    pipelines: ServedPipelines
    grades: SearchGrades | None = None
    events: EventRecorder | None = None  # records searches and clicks; None: nothing is recorded
    metrics: Metrics = field(default_factory=Metrics)
    threads: FairThreads = field(default_factory=lambda: FairThreads(_THREADS, "searchlora-http"))
    probe_thread: FairThreads = field(default_factory=lambda: FairThreads(1, "searchlora-probe"))
    task_threads: FairThreads = field(default_factory=lambda: FairThreads(_TASK_THREADS, "searchlora-task"))
    access_log: tuple[logging.Logger, QueueListener] | None = None
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)
    draining: threading.Event = field(default_factory=threading.Event)
    _in_progress: Counter[str] = field(default_factory=Counter)  # of the event loop's thread
    _had_store: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_had_store", self.store.root.is_dir())

    @cached_property
    def adapter_task(self) -> Callable[[str], AdapterTask]:
        """The task of an exact adapter version, see `task_reader`."""
        return task_reader(self.store, self.config.tasks)

    @cached_property
    def base(self) -> str:
        """The name of the base model in requests; never a path. Of a whole model of the store, its exact reference."""
        return public_name(self.engine.base.name)

    async def in_task_thread(self, client_id: str, function: Callable[[], T]) -> T:
        """Run a function that waits for the engine, see `work_queue.in_thread`."""
        return await in_thread(self.task_threads, client_id, function)

    @cached_property
    def shadow(self) -> ShadowSearches | None:
        """Searches of candidates beside those of the live versions; None: there are none."""
        from searchlora.server.api.shadow import ShadowSearches

        if self.config.shadow is None:
            return None
        return ShadowSearches(self, self.config.shadow, self.config.shadow_rows)

    @contextmanager
    def admitted(self, client_id: str, requests: int = 1) -> Iterator[None]:
        """Count engine requests of a client as in progress while the block runs. For the event loop's thread."""
        limit = self.config.requests_per_client
        if self._in_progress[client_id] + requests > limit:
            message = f"A client has at most {limit} requests in progress, those of a batch included."
            raise ApiError(429, "too_many_requests", message, retry_after=1)
        self._in_progress[client_id] += requests
        if self.shadow is not None:
            self.shadow.live_began()
        try:
            yield
        finally:
            if self.shadow is not None:
                self.shadow.live_ended()
            self._in_progress[client_id] -= requests
            if not self._in_progress[client_id]:
                del self._in_progress[client_id]

    @cached_property
    def fingerprints(self) -> dict[str, Fingerprint]:
        """The name of the base and of each encoder, with its fingerprint."""
        bases = {self.base: self.engine.base, **self.encoders.bases}
        return {name: fingerprint(base.path) for name, base in bases.items()}

    def missing_files(self) -> list[Path]:
        """Paths of models and of the store that existed at start and have disappeared."""
        bases = (self.engine.base, *self.encoders.bases.values())
        store = [self.store.root] if self._had_store else []
        return [path for path in (*(base.path for base in bases), *store) if not path.exists()]

    def close(self) -> None:
        """Complete or fail the engine's requests, and end the threads."""
        if self.shadow is not None:
            self.shadow.close()
        self.engine.close(self.config.timeout)
        self.pipelines.close(self.config.timeout)
        self.threads.shutdown()
        self.probe_thread.shutdown()
        self.task_threads.shutdown()
        if self.grades is not None:
            self.grades.close()
        if self.events is not None:
            self.events.close()
        if self.access_log is not None:
            self.access_log[1].stop()

    def pin(self, model: str, key: str | None = None) -> str | None:
        """The exact version that a request's `model` means now; None for a base model that is not from the store."""
        if model == self.base:
            return self.engine.base.version
        return self.store.shared(model, key) or self.engine.pin(model)

    def check_store(self) -> None:
        """Raise `FileNotFoundError`, which is answered with 503, if the store has disappeared since the start."""
        if self._had_store and not self.store.root.is_dir():
            raise FileNotFoundError(2, "the adapter store has disappeared", str(self.store.root))

    def rendered(self, request: Request, *, param: str = "messages") -> Request:
        """A request with the token ids of its prompt, so that the engine does not render it again.

        It reads the store and tokenises: call it in a worker thread.
        """
        limit = self.config.max_prompt
        ids: Sequence[int] = request.prompt_ids
        length = len(ids)
        if not ids:
            messages, prefix = request.messages, request.answer_prefix
            try:
                ids, length = self.engine.renderer.bounded_prompt_ids(messages, prefix, request.adapter, limit=limit)
            except RenderError as error:
                message = f"The messages cannot be rendered: {error.what}."
                raise ApiError(400, "invalid_messages", message, param=param) from None
        if length > limit:
            raise ApiError(
                400,
                "context_length_exceeded",
                f"The prompt has {length} tokens or more, and this server takes {limit}. Shorten it.",
                param=param,
            )
        return replace(request, prompt_ids=tuple(ids))
