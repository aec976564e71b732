"""Remote engine: the engine contract over an OpenAI-compatible HTTP server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from searchlora.adapters.references import parse_reference
from searchlora.adapters.store import Store
from searchlora.errors import EngineError, NotInStore, PromptTooLong, RequestRefused, UsageError
from searchlora.http_client import OF_ONE_REQUEST, HttpClient, Refused
from searchlora.inference.constrained import Constraints
from searchlora.inference.engine import ChoiceScores, Completion, Request
from searchlora.inference.remote.dialects import Dialect
from searchlora.inference.remote.server_models import ServerModels
from searchlora.inference.settings import ServerSettings
from searchlora.models.load import load_tokenizer
from searchlora.models.resolve import BaseModel
from searchlora.prompts import Renderer
from searchlora.recipe import PromptOptions

#: Requests of one call for each one in flight.
_CALLS_IN_FLIGHT = 4

#: Distance of the seeds of two answers to one request: a prime, so that those of two requests hardly coincide.
_SEEDS_APART = 1_000_003

Result = TypeVar("Result")


class RemoteEngine:
    """Generation and scoring by an OpenAI-compatible server, one HTTP call per request, many at once.

    vLLM gets token ids and `searchlora serve` uses this project's renderer, so the model reads what it was trained on.
    Any other server renders with its own template; it can only generate, freely or under a JSON Schema, and samples
    without `top_k` and `min_p`. The server is contacted with the first request.

    Args:
        url: Base URL of the server, with or without `/v1` at the end.
        base: The base model that the server serves; its tokenizer is used, and its fingerprint for load checks.
        store: Resolves adapter references; None: only exact versions and the keys of `names` are valid.
        api_key: Sent as a bearer token; read it from the environment, not from a file.
        prompt_options: Options of the prompts of the bare base; those of an adapter are in its manifest.
        options: Other fields of `ServerSettings`. References in `names` are pinned now; other adapters are called by
            their pinned reference, `name@3`. A slow server gets fewer requests than `concurrency`. Attempts are
            repeated on failed connections and on status 429 and 5xx except 504.

    Raises:
        EngineError: for an invalid URL.
        InvalidName, NotInStore: for an unknown reference in `names`.
    """

    def __init__(
        self,
        url: str,
        base: BaseModel,
        store: Store | None = None,
        *,
        api_key: str | None = None,
        prompt_options: PromptOptions | None = None,
        **options: Any,
    ) -> None:
        settings = ServerSettings(url=url, **options)
        self.base = base
        self.store = store
        self.call_size = _CALLS_IN_FLIGHT * settings.concurrency
        self.renderer = Renderer(
            load_tokenizer(base), prompt_options, adapter_options=self._prompt_options if store else None
        )
        self._folders: set[str] = set()  # names without a version, see `load_folder`
        self._named = frozenset(settings.names) if store is None else frozenset()
        self._client = HttpClient(
            url,
            api_key=api_key,
            connections=settings.concurrency,
            timeout_s=settings.timeout_s,
            retries=settings.retries,
        )
        names = {self.pin(reference): name for reference, name in settings.names.items()}
        self._models = ServerModels(self._client, base, store, settings, names)
        self._pool = ThreadPoolExecutor(settings.concurrency, "searchlora-remote")
        self._closed = Event()
        self._running: set[Event] = set()  # one per call, set when the call is cancelled

    @property
    def engine_id(self) -> str:
        return f"{self._client.url}, {self._models.description}"

    def pin(self, adapter: str) -> str:
        """The exact version that a reference means now, `name@3`. Raises `InvalidName`, `NotInStore`."""
        if adapter in self._folders:
            return adapter
        if self.store is not None:
            return self.store.pin(adapter)
        if adapter in self._named or parse_reference(adapter).version is not None:
            return adapter
        raise NotInStore(
            f"the version of '{adapter}' is unknown without a store",
            fix="Give the engine a store, or name an exact version, name@3.",
        )

    def _prompt_options(self, adapter: str) -> PromptOptions:
        if self.store is None or adapter in self._folders:
            return self.renderer.options
        return self.store.prompt_options(adapter)

    def load(self, adapter: str) -> str:
        """Let the server load an adapter before its first request, and return its pinned reference.

        Raises:
            NotInStore, LoadCheckFailed: for an adapter that is missing or must not be loaded.
            EngineError: if the server does not have it, and may not or cannot load it.
        """
        pinned = self.pin(adapter)
        self._models.load(pinned)
        return pinned

    def load_folder(self, name: str, folder: Path) -> None:
        """Let the server load an adapter that is no version of the store, under a name without a version.

        `searchlora serve` loads folders below the store that it serves; vLLM loads any, with `load`. A later call with
        the name replaces the adapter.

        Raises:
            UsageError: for a name with a version.
            EngineError: if the server cannot load it.
        """
        if "@" in name:
            raise UsageError(f"'{name}' is the name of a stored version", fix="Give a name without '@'.")
        self._models.load_folder(name, folder)
        self._folders.add(name)

    def unload(self, adapter: str) -> bool:
        """Let the server unload an adapter; False if it was not loaded. Raises `EngineError` if that is not allowed."""
        return self._models.unload(self.pin(adapter))

    def close(self) -> None:
        """Refuse new requests, wait for responses to requests that were sent, and close the connections.

        Nothing more is sent, retries included; calls that need it fail with `EngineError`.
        """
        self._closed.set()
        for cancelled in self._running.copy():
            cancelled.set()
        self._pool.shutdown()
        self._client.close()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """See `Engine.generate`.

        Raises:
            NotInStore, LoadCheckFailed: for an adapter that is missing or must not be loaded.
            PromptTooLong, RequestRefused: for the first request that is too long, if the server reports its context,
                before anything is sent; if the server refuses a request.
            UnusableAnswer: for an answer that the server withheld, such as by a content filter.
            EngineBusy, DeadlineExceeded: if the server is too busy, or does not answer in time.
            EngineError: for the first request with an unusable grammar, before anything is sent; with the server's
                message; or if the engine is closed.
        """
        self._check_open()
        if not requests:
            return []
        self._constraints.matchers([request.grammar for request in requests])  # raises as the local engine does
        requests = self._rendered(requests)
        self._check_length(requests, [request.max_new_tokens for request in requests])
        jobs = [partial(self._dialect.generate, request=request) for request in requests]
        return self._run(requests, jobs)

    def generate_answers(self, requests: Sequence[Request], n: int) -> list[list[Completion]]:
        """`n` answers to each request, each with random numbers of its own. Raises as `generate`."""
        single = [_nth_answer(request, number) for request in requests for number in range(n)]
        answers = self.generate(single)
        return [answers[start : start + n] for start in range(0, len(answers), n)]

    def score(
        self, requests: Sequence[Request], choices: Sequence[Sequence[str]], *, prune_margin: float | None = None
    ) -> list[ChoiceScores]:
        """See `Engine.score`. Raises as `generate`."""
        self._check_open()
        if not requests:
            return []
        requests = self._rendered(requests)
        longest = [
            self._dialect.longest(row, request.choice_suffix) for request, row in zip(requests, choices, strict=True)
        ]
        self._check_length(requests, longest)
        jobs = [
            partial(self._dialect.score, request=request, choices=row, prune_margin=prune_margin)
            for request, row in zip(requests, choices, strict=True)
        ]
        return self._run(requests, jobs)

    def _run(self, requests: Sequence[Request], jobs: Sequence[Callable[..., Result]]) -> list[Result]:
        """The answers in order. After a failure the others are neither awaited nor retried."""
        pinned = self._pinned(requests)
        cancelled = Event()
        self._running.add(cancelled)
        futures: list[Future[Result]] = []
        try:
            for row, (job, adapter) in enumerate(zip(jobs, pinned, strict=True)):
                futures.append(self._start(job, adapter, row, cancelled))
            for future in as_completed(futures):
                future.result()
        finally:
            cancelled.set()
            self._running.discard(cancelled)
            for future in futures:
                future.cancel()
        return [future.result() for future in futures]

    def _start(self, job: Callable[..., Result], adapter: str | None, row: int, cancelled: Event) -> Future[Result]:
        try:
            return self._pool.submit(self._answer, job, adapter, row, cancelled)
        except RuntimeError:  # the pool is shut down
            self._check_open()
            raise

    def _answer(self, job: Callable[..., Result], adapter: str | None, row: int, cancelled: Event) -> Result:
        self._check_open()
        where = f"{self._client.url}, request {row + 1}"
        post = partial(self._client.post, cancelled=cancelled, request=row)
        try:
            model = self._models.name(adapter)
            try:
                return job(post, model=model)
            except Refused as error:
                if error.status in OF_ONE_REQUEST:
                    raise RequestRefused(error.what, where=error.where, fix=error.fix) from None
                if error.status != 404 or not self._models.reload(adapter):
                    raise
                return job(post, model=self._models.name(adapter))
        except EngineError as error:
            if error.where is not None:
                raise
            raise type(error)(error.what, where=where, fix=error.fix) from None
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise EngineError(
                f"the server's answer is not understood ({type(error).__name__}: {error})",
                where=where,
                fix="Check what kind of server it is, and say so with 'dialect'.",
            ) from error

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise EngineError("the engine is closed", where=self._client.url)

    @cached_property
    def _dialect(self) -> Dialect:
        return self._models.make_dialect(self.renderer, lambda token: self._constraints.token_bytes(token))

    @cached_property
    def _constraints(self) -> Constraints:
        return Constraints(self.renderer.tokenizer, len(self.renderer.tokenizer), self.renderer.stop_id)

    def _pinned(self, requests: Sequence[Request]) -> list[str | None]:
        """The adapter of each request. Each reference is pinned once, so a call uses one version.

        The server loads missing adapters before the first request.
        """
        adapters = {request.adapter for request in requests}
        pinned = {adapter: adapter and self.pin(adapter) for adapter in adapters}
        for reference in pinned.values():
            self._models.name(reference)
        return [pinned[request.adapter] for request in requests]

    def _rendered(self, requests: Sequence[Request]) -> list[Request]:
        """The requests as this kind of server takes them. Raises `RequestRefused` for token ids, and for the bare base
        on a server that renders its prompts with other options.
        """
        if any(request.prompt_ids for request in requests):
            raise RequestRefused("a remote engine takes messages, and no 'prompt_ids'")
        unversioned = any(request.adapter is None or request.adapter in self._folders for request in requests)
        if unversioned and self._models.dialect == "searchlora" and self.renderer.options != PromptOptions():
            raise RequestRefused(
                "the server renders prompts of the bare base with the default options, and these are others",
                where=self._client.url,
                fix="Use a local engine or vLLM.",
            )
        return [self._dialect.rendered(request) for request in requests]

    def _check_length(self, requests: Sequence[Request], answers: Sequence[int]) -> None:
        context = self._models.context
        for row, (request, answer) in enumerate(zip(requests, answers, strict=True)):
            if context is not None and len(request.prompt_ids) + answer > context:
                raise PromptTooLong(row, len(request.prompt_ids), answer, context)


def _nth_answer(request: Request, number: int) -> Request:
    if request.sampling.seed is None or number == 0:
        return request
    seed = (request.sampling.seed + number * _SEEDS_APART) % 2**31
    return replace(request, sampling=replace(request.sampling, seed=seed))
