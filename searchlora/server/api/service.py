"""Server settings, and the service object that all routes share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Request as HttpRequest
from pydantic import TypeAdapter
from starlette.responses import JSONResponse, Response

from searchlora.adapters.store import Store
from searchlora.errors import NotInStore, RenderError, UsageError
from searchlora.inference.engine import Request
from searchlora.inference.grammar_trial import GrammarTrial
from searchlora.inference.local import LocalEngine
from searchlora.models.resolve import public_name
from searchlora.server.api.access_log import AccessLog
from searchlora.server.api.adapter_tasks import AdapterTasks
from searchlora.server.api.encoders import Encoders
from searchlora.server.api.errors import ApiError
from searchlora.server.api.jobs import Jobs
from searchlora.server.api.metrics import Metrics
from searchlora.server.api.schemas import parse_body
from searchlora.server.api.served_pipelines import ServedPipelines
from searchlora.server.api.work_queue import FairThreads, in_thread
from searchlora.server.grading.search_grades import SearchGrades

T = TypeVar("T")

#: Worker threads for blocking work of requests: parsing, tokenising, store reads, encoding of large responses.
_THREADS = 8

#: Worker threads of task requests. They wait most of the time; one caller has at most half of them.
_TASK_THREADS = 64


@dataclass(frozen=True)
class Settings:
    """Who may send requests, and how large they may be.

    Attributes:
        api_keys: Every request except health probes must carry one of them; empty: no key is required.
        host_names: Host names accepted without an API key, see `http.is_own_host`.
        max_body_bytes: Limit of a request body.
        max_prompt_tokens: Limit of a prompt, besides the context length of the model; None: no further limit.
        max_answer_tokens: Limit of an answer, and its default.
        requests_per_minute: POST requests of one caller per minute, as a token bucket; None: no limit.
        timeout: Seconds after which a request fails with 504.
        max_waiting: Limit of the engine's queue.
        max_active_requests: Limit of requests in progress, including those whose body has not arrived.
        max_connections: Limit of open connections; above half of it those that wait for their client are closed, see
            `http_protocol`. It must be larger than `max_active_requests`.
        max_requests_per_caller: Limit of one caller's engine requests in progress, waiting ones included; each request
            of a batch counts. None: no limit.

    Raises:
        UsageError: for an API key that is empty or begins or ends with a blank, which no header can carry.

    Examples:
        >>> Settings(api_keys=("secret",)).timeout
        120.0
    """

    api_keys: tuple[str, ...] = ()
    host_names: tuple[str, ...] = ()
    max_body_bytes: int = 1_000_000
    max_prompt_tokens: int | None = 8192
    max_answer_tokens: int = 1024
    requests_per_minute: int | None = None
    timeout: float = 120.0
    max_waiting: int = 1024
    max_active_requests: int = 2048
    max_connections: int = 4096
    max_requests_per_caller: int | None = None

    def __post_init__(self) -> None:
        if any(not key or key != key.strip() for key in self.api_keys):
            raise UsageError(
                "an API key is empty, or begins or ends with a blank",
                fix="Give a long random key, or no key at all to accept every request that reaches the server.",
            )


@dataclass(frozen=True)
class Service:
    """An engine with its adapter store, the encoders, and the settings.

    Attributes:
        pipelines: The pipelines of `/v1/search`.
        grades: Topics with judgments, and where grades of hits are saved; None: nothing is measured.
        threads: Worker threads for blocking work of requests, shared fairly between callers.
        probe_thread: A thread of its own for health probes, so that they do not wait for requests.
        task_threads: Threads in which task requests wait for the engine.
        tasks: A folder of further task plugins.
        access_log: Where requests are logged; None: nowhere.
        jobs: Background jobs.
    """

    engine: LocalEngine
    store: Store
    encoders: Encoders
    settings: Settings
    pipelines: ServedPipelines
    grades: SearchGrades | None = None
    metrics: Metrics = field(default_factory=Metrics)
    threads: FairThreads = field(default_factory=lambda: FairThreads(_THREADS, "searchlora-http"))
    probe_thread: FairThreads = field(default_factory=lambda: FairThreads(1, "searchlora-probe"))
    task_threads: FairThreads = field(default_factory=lambda: FairThreads(_TASK_THREADS, "searchlora-task"))
    tasks: Path | None = None
    access_log: AccessLog | None = None
    jobs: Jobs = field(default_factory=Jobs)
    _in_progress: Counter[str] = field(default_factory=Counter)  # of the event loop's thread
    _had_store: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_had_store", self.store.root.is_dir())

    @cached_property
    def adapter_tasks(self) -> AdapterTasks:
        """The tasks of adapters, for chats, task endpoints and the pages of adapters."""
        return AdapterTasks(self.store, self.tasks)

    @cached_property
    def grammar_trial(self) -> GrammarTrial:
        """Compiles the grammars of clients in a process of its own first."""
        renderer = self.engine.renderer
        return GrammarTrial(renderer.tokenizer, renderer.stop_id)

    @cached_property
    def base(self) -> str:
        """The name of the base model in requests; never a path. Of a whole model of the store, its exact reference."""
        return public_name(self.engine.base.name)

    async def in_thread(
        self, caller: str, function: Callable[[], T], *, on_abandoned: Callable[[T], object] | None = None
    ) -> T:
        """Run a blocking function outside the event loop, see `work_queue.in_thread`."""
        return await in_thread(self.threads, caller, function, on_abandoned=on_abandoned)

    async def in_task_thread(self, caller: str, function: Callable[[], T]) -> T:
        """Run a function that waits for the engine, see `work_queue.in_thread`."""
        return await in_thread(self.task_threads, caller, function)

    async def body(self, http: HttpRequest, adapter: TypeAdapter[T]) -> T:
        """The parsed body of a request. Raises `ApiError` 400, see `schemas.parse_body`."""
        raw, content_type = await http.body(), http.headers.get("content-type", "")
        return await self.in_thread(http.state.caller, lambda: parse_body(raw, content_type, adapter))

    async def json(self, caller: str, content: Callable[[], Any]) -> Response:
        """A JSON response whose content is computed and encoded outside the event loop: it may be large."""
        return await self.in_thread(caller, lambda: JSONResponse(content()))

    @contextmanager
    def admitted(self, caller: str, requests: int = 1) -> Iterator[None]:
        """Count engine requests of a caller as in progress while the block runs. For the event loop's thread.

        Raises:
            ApiError: 429, when the caller has too many in progress.
        """
        limit = self.settings.max_requests_per_caller
        if limit is not None and self._in_progress[caller] + requests > limit:
            message = f"A caller has at most {limit} requests in progress, those of a batch included."
            raise ApiError(429, "too_many_requests", message, retry_after=1)
        self._in_progress[caller] += requests
        try:
            yield
        finally:
            self._in_progress[caller] -= requests
            if not self._in_progress[caller]:
                del self._in_progress[caller]

    def missing_files(self) -> list[Path]:
        """Paths of models and of the store that existed at start and have disappeared."""
        bases = (self.engine.base, *self.encoders.bases.values())
        store = [self.store.root] if self._had_store else []
        return [path for path in (*(base.path for base in bases), *store) if not path.exists()]

    def close(self) -> None:
        """Stop background jobs, complete or fail the engine's requests, and end the threads."""
        self.jobs.close()
        self.engine.close(self.settings.timeout)
        self.pipelines.close(self.settings.timeout)
        self.threads.shutdown()
        self.probe_thread.shutdown()
        self.task_threads.shutdown()
        self.grammar_trial.close()
        if self.grades is not None:
            self.grades.close()
        if self.access_log is not None:
            self.access_log.close()

    def pin(self, model: str) -> str | None:
        """The exact version that a request's `model` means now; None for a base model that is not from the store.

        Raises:
            InvalidName: for a string that cannot be a reference, such as a path.
            NotInStore: for an unknown adapter, version or alias.
            FileNotFoundError: when the store has disappeared.
        """
        if model == self.base:
            return self.engine.base.version
        try:
            return self.engine.pin(model)
        except NotInStore:
            self.check_store()
            raise

    def check_store(self) -> None:
        """Raise `FileNotFoundError`, which is answered with 503, if the store has disappeared since the start."""
        if self._had_store and not self.store.root.is_dir():
            raise FileNotFoundError(2, "the adapter store has disappeared", str(self.store.root))

    def rendered(self, request: Request, *, param: str = "messages") -> Request:
        """A request with the token ids of its prompt, so that the engine does not render it again.

        It reads the store and tokenises: call it in a worker thread.

        Args:
            request: Its `adapter` is an exact version, or None, see `pin`.
            param: The field of the prompt, for errors.

        Raises:
            ApiError: 400, for messages that the chat template refuses and for a prompt above `max_prompt_tokens`.
        """
        limit = self.settings.max_prompt_tokens
        ids, length = self._prompt(request, limit, param)
        if limit is not None and length > limit:
            raise ApiError(
                400,
                "context_length_exceeded",
                f"The prompt has {length} tokens or more, and this server takes {limit}. Shorten it.",
                param=param,
            )
        return replace(request, prompt_ids=ids)

    def _prompt(self, request: Request, limit: int | None, param: str) -> tuple[tuple[int, ...], int]:
        if request.prompt_ids:
            return request.prompt_ids, len(request.prompt_ids)
        try:
            ids, length = self.engine.renderer.bounded_prompt_ids(
                request.messages, request.answer_prefix, request.adapter, limit=limit
            )
        except RenderError as error:
            message = f"The messages cannot be rendered: {error.what}."
            raise ApiError(400, "invalid_messages", message, param=param) from None
        return tuple(ids), length
