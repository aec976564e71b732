"""The engine in this process: one base model, adapters from the store put on it by name."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.errors import EngineError, RequestRefused, UsageError
from searchlora.inference.engine import Completion, Request, Scored
from searchlora.inference.fetching import Fetch, the_store
from searchlora.inference.futures import then
from searchlora.inference.input_processor import Asking
from searchlora.inference.scheduling.engine_core import Core, Stats
from searchlora.inference.scheduling.requests import Limits, Work
from searchlora.inference.sequential import one_adapter_core
from searchlora.models.load import Precision, Quantization, load_model, load_tokenizer
from searchlora.models.resolve import BaseModel
from searchlora.progress import Progress, silent
from searchlora.prompts import Renderer

#: Requests that are put in order of length at once; those of one query lie together before that.
_WINDOW = 4


class LocalEngine:
    """Greedy generation and scoring, batched over callers and over adapters.

    Requests of all callers, whatever adapters they name, share batches; a caller waits for its own only. Adapters are
    loaded when they are first asked for and make room for others when they were not used for longest. What prompts
    begin with in common is computed once.

    A model that attends by a window, keeps a recurrent state or scales its logits is served one adapter at a time.

    Args:
        base: The base model; the engine loads its own copy, which nobody trains.
        store: Where adapter references are looked up.
        batch_rows: Rows of one forward pass at most.
        batch_tokens: Rows times longest prompt at most, its choices with it where they are scored.
        adapters: That are loaded at once.
        cache_tokens: Tokens whose keys and values are held for rows that write: rows times the longest.
        prefix_tokens: Tokens whose keys and values are kept for prompts that begin alike.
        waiting: Requests that wait at most.

    Attributes:
        shares_batches: Whether rows with different adapters are computed together.

    Raises:
        BaseModelError: for a base that cannot be loaded.
        UsageError: for a limit below 1.
    """

    def __init__(
        self,
        base: BaseModel,
        store: Store | None = None,
        *,
        quantization: Quantization = "none",
        precision: Precision = "bf16",
        batch_rows: int = 32,
        batch_tokens: int = 8192,
        adapters: int = 16,
        cache_tokens: int = 65536,
        prefix_tokens: int = 16384,
        waiting: int = 4096,
    ) -> None:
        from searchlora.inference.batched.core import batched_core
        from searchlora.inference.batched.forward import fits

        limits = Limits(batch_rows, cache_tokens, batch_tokens, waiting)
        for name, value in {"adapters": adapters, **asdict(limits)}.items():
            if value < 1:
                raise UsageError(f"an engine with {name} = {value} can answer nothing", fix="Give at least 1.")
        self.base = base
        self.store = store
        self.precision = precision if quantization == "none" else f"{quantization}+{precision}"
        self.renderer = Renderer(load_tokenizer(base))
        self._order = _WINDOW * batch_rows
        self._by_hand: dict[str, Path] = {}  # name -> folder, see `load_folder`
        model = load_model(base, quantization=quantization, precision=precision)
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        fetch = Fetch(base, store, self._by_hand)
        stop_id, pad_id = self.renderer.stop_id, int(self.renderer.tokenizer.pad_token_id)
        self.shares_batches = fits(model)
        self._core: Core
        if self.shares_batches:
            self._core = batched_core(model, stop_id, fetch, slots=adapters, limits=limits, prefix_tokens=prefix_tokens)
        else:
            self._core = one_adapter_core(model, stop_id, pad_id, fetch, slots=adapters, limits=limits, context=context)
        self._asking = Asking(self.renderer, self.pin, context, self._core.vocabulary, limits.tokens_of_pass)

    @property
    def context(self) -> int | None:
        """Tokens of prompt and answer that the model takes; None where its positions have no end."""
        return self._asking.context

    def pin(self, adapter: str) -> str:
        """The exact version that a reference means now, `name@3`. Raises `NotInStore`."""
        if adapter in self._by_hand:
            return adapter
        return the_store(self.store).pin(adapter)

    def load(self, adapter: str) -> str:
        """Load an adapter before it is first asked for; its pinned reference.

        Raises:
            NotInStore, LoadCheckFailed: for one that is not there or must not be loaded.
            EngineBusy: when requests under way wear all slots.
        """
        pinned = self.pin(adapter)
        self._core.load(pinned)
        return pinned

    def unload(self, adapter: str) -> bool:
        """Whether the adapter was loaded, and now is not. Raises `EngineError` while its requests are under way."""
        return self._core.unload(self.pin(adapter))

    def load_folder(self, name: str, folder: Path) -> None:
        """Put an adapter on that is not in the store, under a name without a version; replaces one of that name.

        The folder is read again where its slot went to another meanwhile: it must stay as it is.

        Raises:
            UsageError: for a name with a version, which would hide a stored adapter.
            LoadCheckFailed: for one that does not fit the base.
            EngineError: while requests under way wear the one before, or all slots.

        What the name meant before it means still when it is raised.
        """
        if "@" in name:
            raise UsageError(f"'{name}' is the name of a stored version", fix="Give a name without '@'.")

        def change() -> Callable[[], object]:
            before = self._by_hand.get(name)
            self._by_hand[name] = folder
            return lambda: self._by_hand.pop(name) if before is None else self._by_hand.update({name: before})

        self._core.replace(name, change)

    def stats(self) -> Stats:
        """What the engine is doing and has done."""
        return self._core.stats()

    def close(self, seconds: float = 60.0) -> None:
        """Take no more requests, and finish those that wait; what takes longer fails."""
        self._core.close(seconds)

    def generate(self, requests: Sequence[Request], progress: Progress = silent) -> list[Completion]:
        """Greedy completions, one per request, in order; the requests may name different adapters.

        Raises:
            NotInStore, LoadCheckFailed: for an adapter that is not there or must not be loaded.
            PromptTooLong: naming the first request that has no room in the model's context; nothing is computed.
            RequestRefused: naming the first request whose grammar or choices cannot be used; nothing is computed.
        """
        works = self._asking.to_write(requests)
        self._await(works, progress)
        return [self._completion(work.ids, work.result.result()) for work in works]

    def score(
        self,
        requests: Sequence[Request],
        choices: Sequence[Sequence[str]],
        *,
        prune_margin: float | None = None,
        progress: Progress = silent,
    ) -> list[Scored]:
        """How likely each choice of each request is, see `Engine.score`. Raises as `generate`.

        The choices become one tree of tokens behind the prompt.
        """
        works = self._asking.to_score(requests, choices, prune_margin)
        self._await([work for work in works if work.answers], progress)
        return [work.result.result() if work.answers else Scored((), 0, 0) for work in works]

    def submit(
        self,
        request: Request,
        *,
        caller: Hashable = None,
        seconds: float | None = None,
        on_token: Callable[[str], None] | None = None,
    ) -> Future[Completion]:
        """Ask for one completion without waiting for it; cancelling the future takes the request back.

        Args:
            caller: Those of one caller wait in one line; lines are served in turn.
            seconds: Until it must be done; then it fails with `DeadlineExceeded`.
            on_token: Called with the text so far after each token, by the engine's thread; it must be quick.

        Raises:
            EngineBusy: when too many requests wait already.
            What `generate` raises for the request alone, but that an adapter that must not be loaded fails the future.
        """
        (work,) = self._asking.to_write([request])
        if on_token is not None:
            work.on_token = lambda ids: on_token(self._text(ids))
        self._submit([work], caller, seconds)
        return then(work.result, lambda ids: self._completion(work.ids, ids))

    def submit_scores(
        self,
        asked: Iterable[tuple[Request, Sequence[str], float | None]],
        *,
        caller: Hashable = None,
        seconds: float | None = None,
    ) -> list[Future[Scored]]:
        """Ask for the scores of requests without waiting for them, of all or of none; as `submit`.

        Args:
            asked: The request, its choices (at least one) and its `prune_margin`, see `Engine.score`. The iterable is
                read one item at a time, so a generator knows which item an error belongs to.
        """
        works = [
            self._asking.to_score([request], [choices], prune_margin)[0] for request, choices, prune_margin in asked
        ]
        self._submit(works, caller, seconds)
        return [then(work.result, lambda scored: scored) for work in works]

    def _submit(self, works: Sequence[Work], caller: Hashable, seconds: float | None) -> None:
        for work in works:
            work.deadline = None if seconds is None else time.monotonic() + seconds
        self._core.submit(works, caller)

    def _await(self, works: Sequence[Work], progress: Progress) -> None:
        """Hand works over and wait for all; where one fails the others are taken back.

        Those with one adapter whose prompts begin alike are computed together, and among them those of similar length.
        """
        alike = sorted(works, key=lambda work: (work.adapter or "", work.ids))
        windows = [alike[start : start + self._order] for start in range(0, len(alike), self._order)]
        ordered = [work for window in windows for work in sorted(window, key=lambda work: -len(work.ids))]
        count, failed = itertools.count(1), list[BaseException]()

        def done(result: Future[Any]) -> None:
            progress(next(count), len(works))
            error = None if result.cancelled() else result.exception()
            if error is not None and not failed:
                failed.append(error)
                take_back()

        def take_back() -> None:
            for work in works:
                work.result.cancel()

        for work in works:
            work.result.add_done_callback(done)
        try:
            self._core.finish(ordered)
        except BaseException:
            take_back()
            raise
        if failed:
            raise _named(failed[0], works)

    def _completion(self, prompt: Sequence[int], ids: list[int]) -> Completion:
        stopped = ids[-1] == self.renderer.stop_id
        return Completion(
            text=self._text(ids),
            finish="stop" if stopped else "length",
            prompt_tokens=len(prompt),
            completion_tokens=len(ids),
        )

    def _text(self, ids: Sequence[int]) -> str:
        return self.renderer.decode(ids[:-1] if ids and ids[-1] == self.renderer.stop_id else ids)


def _named(error: BaseException, works: Sequence[Work]) -> BaseException:
    """An error that does not say where, with the place of its request among all."""
    if not isinstance(error, EngineError) or type(error) not in (EngineError, RequestRefused) or error.where:
        return error
    failed = (row for row, work in enumerate(works) if not work.result.cancelled() and work.result.exception() is error)
    row = next(failed)
    return type(error)(error.what, where=f"request {row + 1}", fix=error.fix)
