"""In-process engine: one base model, with adapters from the store loaded by name."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from searchlora.adapters.store import Store
from searchlora.errors import EngineError, RequestRefused, UsageError
from searchlora.inference.adapter_folders import AdapterFolders, required_store
from searchlora.inference.engine import ChoiceScores, Completion, Request
from searchlora.inference.input_processor import InputProcessor
from searchlora.inference.output_processor import OnToken, OutputProcessor
from searchlora.inference.scheduling.engine_core import Stats
from searchlora.inference.scheduling.requests import AnyModelRequest, GenerateRequest, Limits, ScoreRequest
from searchlora.inference.sequential import sequential_core
from searchlora.inference.settings import WAITING, LocalSettings, local_settings
from searchlora.models.experts import is_mixture_of_experts
from searchlora.models.load import hold_in_fp32, load_model, load_tokenizer
from searchlora.models.resolve import BaseModel
from searchlora.prompts import Renderer
from searchlora.recipe import PromptOptions

_LOG = logging.getLogger(__name__)

#: Batches that are sorted by length together. Requests with a common prefix are adjacent before that.
_SORTED_BATCHES = 4

Value = TypeVar("Value")
Mapped = TypeVar("Mapped")


class LocalEngine:
    """Generation and choice scoring, batched over clients and over adapters.

    Adapters are loaded on first use, and the least recently used one is evicted. Common prefixes of prompts are
    computed once (prefix cache). Models with recurrent state, capped attention scores or logit scaling are detected
    and served one adapter at a time, and so is every model on a GPU.

    Args:
        base: The base model; the engine loads its own copy. Requests name a stored version that is a whole model
            (`adapters.full_model.model_of`) as they name an adapter.
        store: Resolves adapter references.
        settings: How the base model is computed, and the engine's limits. Long prompts that are being computed take
            about half of `cache_tokens` besides. With `batch_invariant`, the default on a CPU, every completion and
            score is independent, to the last bit, of other requests; in bf16, rounding otherwise changes about one
            greedy answer in ten. Another number of threads can still round differently. Models that are served one
            adapter at a time compute one row per batch then, and so does a mixture of experts for which it is asked.
        waiting: Maximum number of queued requests.
        waiting_per_client: Maximum number of queued requests of one client of `submit` and `submit_scores`; None: a
            quarter of `waiting`, but at least 256, one call of `/v1/score`.
        prompt_options: Options of the prompts of the base model and of adapters that are not in the store.
        model: A loaded model to compute with as it is, in place of a copy of the base; nothing in it is changed.
        options: Fields of `LocalSettings`, in place of `settings`.

    Attributes:
        batch_invariant: Whether completions and scores are independent of other requests.
        batching: Whether the base computes rows with different adapters in one batch, and the numbers that decided it.
        shares_batches: Whether this engine does.
        precision: Precision and quantization of the base model, as manifests record it.
        renderer: Renders chats to token ids.

    Raises:
        BaseModelError: for a base that cannot be loaded.
        PipelineError, UsageError: for an unknown setting, or a limit below 1.
    """

    def __init__(
        self,
        base: BaseModel,
        store: Store | None = None,
        settings: LocalSettings | None = None,
        *,
        waiting: int = WAITING,
        waiting_per_client: int | None = None,
        prompt_options: PromptOptions | None = None,
        model: Any = None,
        **options: Any,
    ) -> None:
        from searchlora.inference.batched.forward import BatchingCheck, check_batching
        from searchlora.inference.batched.invariance import has_unknown_rotary
        from searchlora.inference.batched.model_runner import batched_core

        if settings is None:
            settings = local_settings(options)
        if min(waiting, 1 if waiting_per_client is None else waiting_per_client) < 1:
            raise UsageError("an engine whose queue has no place can answer nothing", fix="Give at least 1.")
        quantization, precision = settings.quantization, settings.precision or "bf16"
        if base.version is not None and prompt_options is None:
            prompt_options = required_store(store).prompt_options(base.version)
        rows = settings.max_num_seqs
        limits = Limits(rows, settings.cache_tokens, settings.batch_tokens, waiting, waiting_per_client)
        self.base = base
        self.store = store
        self.precision = precision if quantization == "none" else f"{quantization}+{precision}"
        self.renderer = Renderer(load_tokenizer(base), prompt_options, adapter_options=self._prompt_options)
        self._sorted_together = _SORTED_BATCHES * rows
        self.batch_invariant = settings.is_batch_invariant(base)
        self.call_size = rows
        self.engine_id = settings.engine_id(precision, base)
        settings = settings.model_copy(update={"batch_invariant": self.batch_invariant})
        self._folders: dict[str, Path] = {}  # name -> folder, see `load_folder`
        is_given = model is not None
        model = model if is_given else load_model(base, quantization=quantization, precision=precision, to_serve=True)
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._adapters = AdapterFolders(base, store, self._folders)
        stop_id, pad_id = self.renderer.stop_id, int(self.renderer.tokenizer.pad_token_id)
        self.batching = check_batching(model) if not is_given else BatchingCheck("the model computes as it is")
        level = logging.INFO if self.batching.shares_batches or is_given else logging.WARNING
        _LOG.log(level, "%s: %s", base.name, self.batching)
        self.shares_batches = self.batching.shares_batches
        if self.shares_batches and self.batch_invariant:
            self.shares_batches = not is_mixture_of_experts(base.path) and not has_unknown_rotary(model)
            if not self.shares_batches:
                _LOG.warning("%s: one row at a time, since rows of a batch would depend on each other", base.name)
        if not self.shares_batches and not is_given:
            hold_in_fp32(model)
        self._core = (
            batched_core(model, stop_id, self._adapters, settings, limits)
            if self.shares_batches
            else sequential_core(model, stop_id, pad_id, self._adapters, settings, limits, context)
        )
        self._inputs = InputProcessor(
            self.renderer,
            self.pin,
            context,
            self._core.vocabulary,
            limits.pass_tokens,
            settings.max_prompt_tokens,
            base.version,
        )
        self._outputs = OutputProcessor(self.renderer, self._inputs.token_bytes)

    @property
    def context(self) -> int | None:
        """Context length in tokens, prompt and answer together; None for unbounded positions."""
        return self._inputs.context

    def pin(self, adapter: str) -> str:
        """The exact version that a reference means now, `name@3`. Raises `NotInStore`."""
        if adapter in self._folders:
            return adapter
        return required_store(self.store).pin(adapter)

    def _prompt_options(self, adapter: str) -> PromptOptions:
        return self.renderer.options if adapter in self._folders else required_store(self.store).prompt_options(adapter)

    def load(self, adapter: str) -> str:
        """Load an adapter before its first request, and return its pinned reference.

        Raises:
            NotInStore, LoadCheckFailed: for an adapter that is missing or must not be loaded.
            EngineBusy: when running requests use all slots.
        """
        pinned = self.pin(adapter)
        if pinned != self.base.version:
            self._adapters.check(pinned)
            self._core.load(pinned)
        return pinned

    def unload(self, adapter: str) -> bool:
        """Unload an adapter; False if it was not loaded. Raises `EngineError` while its requests run.

        The name of a folder is forgotten, too, so that the store may use it.
        """
        if self.store is None and adapter not in self._folders:
            return False
        unloaded = self._core.unload(self.pin(adapter))
        return self._folders.pop(adapter, None) is not None or unloaded

    def is_folder(self, adapter: str) -> bool:
        """Whether a name is that of a folder, see `load_folder`. Such an adapter has no task."""
        return adapter in self._folders

    def load_folder(self, name: str, folder: Path) -> None:
        """Load an adapter that is not in the store, under a name without a version, in place of one of that name.

        After an eviction the folder is read again: it must not change. After an error the name means what it meant
        before.

        Raises:
            UsageError: for a name with a version, which would hide a stored adapter.
            LoadCheckFailed: for an adapter that does not fit the base.
            EngineError: while running requests use the adapter of that name, or all slots.
        """
        if "@" in name:
            raise UsageError(f"'{name}' is the name of a stored version", fix="Give a name without '@'.")

        def change() -> Callable[[], object]:
            before = self._folders.get(name)
            self._folders[name] = folder
            return lambda: self._folders.pop(name) if before is None else self._folders.update({name: before})

        self._core.replace(name, change)

    def stats(self) -> Stats:
        return self._core.stats()

    def close(self, seconds: float = 60.0) -> None:
        """Refuse new requests and finish the queued ones; those not done after `seconds` fail."""
        self._core.close(seconds)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """See `Engine.generate`.

        Raises:
            NotInStore, LoadCheckFailed: for an adapter that is missing or must not be loaded.
            PromptTooLong, RequestRefused: for the first request that exceeds the context, or has an unusable grammar;
                nothing is computed.
        """
        queued = self._inputs.generate_requests(requests)
        self._finish(queued)
        return [self._outputs.completion(request, request.result.result()) for request in queued]

    def score(
        self, requests: Sequence[Request], choices: Sequence[Sequence[str]], *, prune_margin: float | None = None
    ) -> list[ChoiceScores]:
        """See `Engine.score`; the choices of a request form one tree of tokens after its prompt.

        Raises:
            RequestRefused: for the first request with unusable choices; nothing is computed.
            Otherwise as `generate`.
        """
        queued = self._inputs.score_requests(requests, choices, prune_margin)
        self._finish([request for request in queued if request.choices])
        return [request.result.result() if request.choices else ChoiceScores((), 0, 0) for request in queued]

    def generate_answers(self, requests: Sequence[Request], n: int) -> list[list[Completion]]:
        """`n` answers to each request, which share one prefill. Raises as `submit_answers`."""
        queued = [self.submit_answers(request, n) for request in requests]
        return [[answer.result() for answer in answers] for answers in queued]

    def submit(
        self,
        request: Request,
        *,
        client: Hashable = None,
        seconds: float | None = None,
        on_token: Callable[[str], None] | None = None,
    ) -> Future[Completion]:
        """Queue one generation and return its future; cancelling the future withdraws the request.

        Args:
            client: Whose request it is. Clients take turns; the requests of one are begun in order.
            seconds: Time limit; after it the future fails with `DeadlineExceeded`.
            on_token: Called with the text so far after each token, by the engine's thread; it must be fast.

        Raises:
            EngineBusy: when the queue is full.
            Otherwise as `generate`, except that an adapter that must not be loaded fails the future.
        """
        callback = None if on_token is None else lambda _answer, text, _logprobs: on_token(text)
        return self.submit_answers(request, 1, client=client, seconds=seconds, on_token=callback)[0]

    def submit_answers(
        self,
        request: Request,
        n: int,
        *,
        client: Hashable = None,
        seconds: float | None = None,
        on_token: OnToken | None = None,
    ) -> list[Future[Completion]]:
        """Queue `n` answers to one request, all or none, and return their futures; they share one prefill.

        Each answer has random numbers of its own, from `Sampling.seed` and its number; the first is that of `submit`.

        Args:
            request: The request.
            n: Number of answers, at least 1.
            client, seconds: As for `submit`.
            on_token: Called after each token by the engine's thread, with the number of the answer (from 0), its text
                so far, and the log-probabilities of that text (None unless asked for). Both only grow: what may become
                a stop string or a whole character is held back. The last call has the completion's text. It must be
                fast.

        Raises:
            As `submit`; RequestRefused for `n` below 1.
        """
        queued = self._inputs.answers(request, n, streamed=on_token is not None)
        if on_token is not None:
            for number, answer in enumerate(queued):
                answer.on_token = partial(self._outputs.report, answer, number, on_token)
        self._submit(queued, client, seconds)
        return [_mapped(answer.result, partial(self._outputs.completion, answer)) for answer in queued]

    def submit_scores(
        self,
        requests: Iterable[tuple[Request, Sequence[str], float | None]],
        *,
        client: Hashable = None,
        seconds: float | None = None,
    ) -> list[Future[ChoiceScores]]:
        """Queue scorings, all or none, and return their futures; see `submit`.

        Args:
            requests: Each request with its choices (at least one) and its `prune_margin`. A generator knows from its
                position which item an error belongs to.
        """
        queued: list[ScoreRequest] = []
        for request, choices, prune_margin in requests:
            queued += self._inputs.score_requests([request], [choices], prune_margin)
        self._submit(queued, client, seconds)
        return [_mapped(request.result, lambda scored: scored) for request in queued]

    def _submit(self, queued: Sequence[AnyModelRequest], client: Hashable, seconds: float | None) -> None:
        for request in queued:
            request.deadline = None if seconds is None else time.monotonic() + seconds
        self._core.submit(self._with_checked_adapters(queued), client)

    def _with_checked_adapters(self, queued: Sequence[AnyModelRequest]) -> list[AnyModelRequest]:
        """The requests whose adapters are loaded or pass the check of their files, in this thread; the others fail."""
        refused: dict[str | None, Exception] = {}
        for adapter in {request.adapter for request in queued if request.adapter is not None} - {*self._core.loaded}:
            try:
                self._adapters.check(adapter)
            except Exception as error:
                refused[adapter] = error
        for request in queued:
            if request.adapter in refused:
                request.fail(refused[request.adapter])
        return [request for request in queued if request.adapter not in refused]

    def _finish(self, queued: Sequence[GenerateRequest] | Sequence[ScoreRequest]) -> None:
        """Compute requests and wait for all; the first error cancels the others.

        Prompts with one adapter and a common prefix are adjacent, and among them those of similar length.
        """
        by_prefix: list[AnyModelRequest] = sorted(queued, key=lambda request: (request.adapter or "", request.ids))
        size = self._sorted_together
        windows = [by_prefix[start : start + size] for start in range(0, len(by_prefix), size)]
        ordered = [request for window in windows for request in sorted(window, key=lambda request: -len(request.ids))]
        failed: list[BaseException] = []

        def done(result: Future[Any]) -> None:
            error = None if result.cancelled() else result.exception()
            if error is not None and not failed:
                failed.append(error)
                cancel_all()

        def cancel_all() -> None:
            for request in queued:
                request.result.cancel()

        for request in queued:
            request.result.add_done_callback(done)
        try:
            self._core.finish(self._with_checked_adapters(ordered))
        except BaseException:
            cancel_all()
            raise
        if failed:
            raise _located(failed[0], queued)


def _mapped(source: Future[Value], function: Callable[[Value], Mapped]) -> Future[Mapped]:
    """A future of `function` of another future's value; cancelling it cancels the other."""
    target: Future[Mapped] = Future()

    def finish(done: Future[Value]) -> None:
        if target.cancelled():
            return
        with suppress(InvalidStateError):  # another thread may cancel it at any moment
            try:
                target.set_result(function(done.result()))
            except Exception as error:
                target.set_exception(error)

    def cancel(done: Future[Mapped]) -> None:
        if done.cancelled():
            source.cancel()
            done.set_running_or_notify_cancel()  # else `concurrent.futures.wait` waits for it for ever

    source.add_done_callback(finish)
    target.add_done_callback(cancel)
    return target


def _located(error: BaseException, queued: Sequence[AnyModelRequest]) -> BaseException:
    """The error with the position of its request, if it does not say where it belongs."""
    if not isinstance(error, EngineError) or type(error) not in (EngineError, RequestRefused) or error.where:
        return error
    failed = (
        row
        for row, request in enumerate(queued)
        if not request.result.cancelled() and request.result.exception() is error
    )
    return type(error)(error.what, where=f"request {next(failed) + 1}", fix=error.fix)
