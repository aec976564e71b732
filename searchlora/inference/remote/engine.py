"""The engine contract over a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import cached_property, partial
from threading import Event
from typing import TypeVar

from searchlora.adapters.references import parse_reference
from searchlora.adapters.store import Store
from searchlora.errors import EngineError, NotInStore, PromptTooLong
from searchlora.inference.constrained import Constraints
from searchlora.inference.engine import Completion, Request, Scored
from searchlora.inference.remote.dialects import Dialect, DialectName
from searchlora.inference.remote.http import Refused, Server
from searchlora.inference.remote.models import Models
from searchlora.models.load import load_tokenizer
from searchlora.models.resolve import BaseModel
from searchlora.progress import Progress, silent
from searchlora.prompts import Renderer

Answer = TypeVar("Answer")


class RemoteEngine:
    """Greedy generation and scoring by an OpenAI-compatible server, one HTTP call per request, many at once.

    vLLM gets token ids and `searchlora serve` renders with this project's renderer, so that the model reads what it was
    trained on. Any other server renders as its own template does; it is asked to generate only, freely or by a JSON
    Schema. Nothing is asked of the server before the first request.

    Args:
        url: Where the server answers, with or without `/v1` at the end.
        base: The base that the server serves; its tokenizer is used, its weights only to check what is loaded.
        store: Where adapter references are looked up; None: only exact versions and the keys of `names` mean anything.
        api_key: Sent as a bearer token; read it from the environment, not from a file.
        names: Reference -> the server's name of that adapter, the reference as it is pinned now. An adapter that is
            not there is called by its pinned reference, `name@3`.
        model: The server's name of the base; None: what `searchlora serve`, which must have it, calls it; of another
            server the first model that it lists.
        dialect: What kind of server it is; None finds out.
        load: Let vLLM load adapters that it lacks from the store's folder (`VLLM_ALLOW_RUNTIME_LORA_UPDATING`).
        concurrency: Requests under way at once, of all callers together.
        timeout_s: Seconds that one attempt may take.
        retries: Attempts after the first, where a connection fails and on the statuses 429 and 5xx but for 504.

    Raises:
        EngineError: for a URL that is none.
        InvalidName, NotInStore: for a reference in `names` that means nothing.
    """

    def __init__(
        self,
        url: str,
        base: BaseModel,
        store: Store | None = None,
        *,
        api_key: str | None = None,
        names: Mapping[str, str] | None = None,
        model: str | None = None,
        dialect: DialectName | None = None,
        load: bool = False,
        concurrency: int = 16,
        timeout_s: float = 60.0,
        retries: int = 4,
    ) -> None:
        self.base = base
        self.store = store
        self.renderer = Renderer(load_tokenizer(base))
        self._known = frozenset(names or ()) if store is None else frozenset()
        self._server = Server(url, api_key=api_key, connections=concurrency, timeout_s=timeout_s, retries=retries)
        pinned = {self.pin(reference): name for reference, name in (names or {}).items()}
        self._models = Models(self._server, base, store, names=pinned, base_name=model, dialect=dialect, load=load)
        self._pool = ThreadPoolExecutor(concurrency, "searchlora-remote")
        self._closed = Event()
        self._under_way: set[Event] = set()  # of each call, set when it is given up

    def pin(self, adapter: str) -> str:
        """The exact version that a reference means now, `name@3`. Raises `InvalidName`, `NotInStore`."""
        if self.store is not None:
            return self.store.pin(adapter)
        if adapter in self._known or parse_reference(adapter).version is not None:
            return adapter
        raise NotInStore(
            f"without a store nobody knows which version '{adapter}' means",
            fix="Give the engine a store, or name an exact version, name@3.",
        )

    def load(self, adapter: str) -> str:
        """Let the server load an adapter before it is first asked for; its pinned reference.

        Raises:
            NotInStore, LoadCheckFailed: for one that is not there or must not be loaded.
            EngineError: where the server lacks it and may not, or cannot, load it.
        """
        pinned = self.pin(adapter)
        self._models.load(pinned)
        return pinned

    def unload(self, adapter: str) -> bool:
        """Whether the server had the adapter, and now has not. Raises `EngineError` where that is not allowed."""
        return self._models.unload(self.pin(adapter))

    def close(self) -> None:
        """Take no more requests. Answers that are on their way are waited for.

        Nothing else is asked for any more, not again either, and calls that need it fail with `EngineError`.
        """
        self._closed.set()
        for given_up in self._under_way.copy():
            given_up.set()
        self._pool.shutdown()
        self._server.close()

    def generate(self, requests: Sequence[Request], progress: Progress = silent) -> list[Completion]:
        """Greedy completions, one per request, in order; the requests may name different adapters.

        Raises:
            NotInStore, LoadCheckFailed: for an adapter that is not there or must not be loaded.
            PromptTooLong: naming the first request that has no room in the model's context, where the server says
                how much that is; nothing is asked then.
            EngineBusy, DeadlineExceeded: where the server is too busy, or does not answer in time.
            EngineError: naming the first request whose grammar cannot be used, before anything is asked; or naming
                the server, and what it said; or where the engine is closed, also meanwhile.
        """
        self._check_open()
        if not requests:
            return []
        self._constraints.matchers([request.grammar for request in requests])  # refuses as the local engine does
        self._check_room(requests, [request.max_new_tokens for request in requests])
        jobs = [partial(self._dialect.generate, request=request) for request in requests]
        return self._done(requests, jobs, progress)

    def score(
        self,
        requests: Sequence[Request],
        choices: Sequence[Sequence[str]],
        *,
        prune_margin: float | None = None,
        progress: Progress = silent,
    ) -> list[Scored]:
        """How likely each choice of each request is, see `Engine.score`. Raises as `generate`.

        vLLM's scores are all exact, whatever `prune_margin` is.
        """
        self._check_open()
        if not requests:
            return []
        longest = [
            max((len(self.renderer.completion_ids(choice, request.choice_suffix)) for choice in row), default=0)
            for request, row in zip(requests, choices, strict=True)
        ]
        self._check_room(requests, longest)
        jobs = [
            partial(self._dialect.score, request=request, choices=row, prune_margin=prune_margin)
            for request, row in zip(requests, choices, strict=True)
        ]
        return self._done(requests, jobs, progress)

    def _done(
        self, requests: Sequence[Request], jobs: Sequence[Callable[..., Answer]], progress: Progress
    ) -> list[Answer]:
        """The answers in order. Where one fails, the others are not waited for and not asked for again."""
        pinned = self._pinned(requests)
        given_up = Event()
        self._under_way.add(given_up)
        futures: dict[Future[Answer], int] = {}
        found: dict[int, Answer] = {}
        try:
            for row, (job, adapter) in enumerate(zip(jobs, pinned, strict=True)):
                futures[self._begun(job, adapter, row, given_up)] = row
            for future in as_completed(futures):
                found[futures[future]] = future.result()
                progress(len(found), len(jobs))
        finally:
            given_up.set()
            self._under_way.discard(given_up)
            for future in futures:
                future.cancel()
        return [found[row] for row in range(len(jobs))]

    def _begun(self, job: Callable[..., Answer], adapter: str | None, row: int, given_up: Event) -> Future[Answer]:
        try:
            return self._pool.submit(self._answer, job, adapter, row, given_up)
        except RuntimeError:  # the pool takes nothing more
            self._check_open()
            raise

    def _answer(self, job: Callable[..., Answer], adapter: str | None, row: int, given_up: Event) -> Answer:
        self._check_open()
        where = f"{self._server.url}, request {row + 1}"
        post = partial(self._server.post, given_up=given_up, request=row)
        try:
            try:
                return job(post, model=self._models.name(adapter))
            except Refused as error:
                if error.status != 404 or not self._models.bring_again(adapter):
                    raise
                return job(post, model=self._models.name(adapter))
        except EngineError as error:
            if error.where is not None:
                raise
            raise EngineError(error.what, where=where, fix=error.fix) from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineError(
                f"the server's answer is not understood ({type(error).__name__}: {error})",
                where=where,
                fix="Check what kind of server it is, and say so with 'dialect'.",
            ) from error

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise EngineError("the engine is closed", where=self._server.url)

    @cached_property
    def _dialect(self) -> Dialect:
        return self._models.spoken(self.renderer)

    @cached_property
    def _constraints(self) -> Constraints:
        return Constraints(self.renderer.tokenizer, len(self.renderer.tokenizer), self.renderer.stop_id)

    def _pinned(self, requests: Sequence[Request]) -> list[str | None]:
        """The adapter of each request; a reference is pinned once, so that all see one version.

        The server has them all, or loads them, before anything is asked.
        """
        asked = {request.adapter for request in requests}
        pinned = {adapter: adapter and self.pin(adapter) for adapter in asked}
        for reference in pinned.values():
            self._models.name(reference)
        return [pinned[request.adapter] for request in requests]

    def _check_room(self, requests: Sequence[Request], answers: Sequence[int]) -> None:
        context = self._models.context
        if context is None:
            return
        for row, (request, answer) in enumerate(zip(requests, answers, strict=True)):
            prompt = len(self.renderer.prompt_ids(request.messages, request.answer_prefix))
            if prompt + answer > context:
                raise PromptTooLong(row, prompt, answer, context)
