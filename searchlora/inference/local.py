"""The engine in this process: one base model, adapters from the store put on it by name."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from searchlora.adapters.attach import attach
from searchlora.adapters.load_check import check_files
from searchlora.adapters.store import Store
from searchlora.errors import EngineError, PromptTooLong
from searchlora.inference.constrained import Constraints, GrammarMask
from searchlora.inference.engine import Completion, Request, Scored
from searchlora.inference.packed import packs
from searchlora.inference.scoring import score_rows
from searchlora.models.batch import collate
from searchlora.models.load import Precision, Quantization, load_model, load_tokenizer
from searchlora.models.resolve import BaseModel
from searchlora.outputs import Grammar
from searchlora.progress import Progress, silent
from searchlora.prompts import Example, Renderer


class LocalEngine:
    """Greedy generation and scoring, batched, one adapter at a time; callers from several threads wait for each other.

    Args:
        base: The base model; the engine loads its own copy, which nobody trains.
        store: Where adapter references are looked up.
        batch_rows: Rows of one forward pass at most.
        batch_tokens: Rows times longest prompt at most.
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
    ) -> None:
        self.base = base
        self.store = store
        self.batch_rows = batch_rows
        self.batch_tokens = batch_tokens
        self.precision = precision if quantization == "none" else f"{quantization}+{precision}"
        self.renderer = Renderer(load_tokenizer(base))
        self._model = load_model(base, quantization=quantization, precision=precision)
        self._attached: dict[str, str] = {}  # reference -> PEFT's name for it, in which no dot is allowed
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def pin(self, adapter: str) -> str:
        """The exact version that a reference means now, `name@3`. Raises `NotInStore`."""
        if adapter in self._attached and "@" not in adapter:  # put on by hand, see `load_folder`
            return adapter
        return self._store.pin(adapter)

    def load_folder(self, name: str, folder: Path) -> None:
        """Put an adapter on that is not in the store, under a name without a version; replaces one of that name."""
        with self._lock:
            if name in self._attached:
                self._model.delete_adapter(self._attached.pop(name))
            self._put_on(name, folder)

    def generate(self, requests: Sequence[Request], progress: Progress = silent) -> list[Completion]:
        """Greedy completions, one per request, in order; the requests may name different adapters.

        Raises:
            NotInStore, LoadCheckFailed: for an adapter that is not there or must not be loaded.
            PromptTooLong: naming the first request that has no room in the model's context; nothing is computed.
            EngineError: naming the first request whose grammar cannot be used; nothing is computed.
        """
        prompts = [self.renderer.prompt_ids(request.messages, request.begins) for request in requests]
        self._check_room(prompts, [request.max_new_tokens for request in requests])
        matchers = self._matchers([request.grammar for request in requests])
        found: dict[int, Completion] = {}
        for adapter, rows in self._by_adapter(requests):
            with self._lock, self._active(adapter):
                for batch in self._batches({row: len(prompts[row]) for row in rows}):
                    most = max(requests[row].max_new_tokens for row in batch)
                    answers = self._continue(batch, prompts, matchers, most)
                    for row, ids in zip(batch, answers, strict=True):
                        found[row] = self._completion(prompts[row], ids, requests[row].max_new_tokens)
                    progress(len(found), len(requests))
        return [found[row] for row in range(len(requests))]

    def score(
        self,
        requests: Sequence[Request],
        choices: Sequence[Sequence[str]],
        *,
        within: float | None = None,
        progress: Progress = silent,
    ) -> list[Scored]:
        """How likely each choice of each request is, see `Engine.score`. Raises as `generate`.

        A single choice is computed behind its prompt as it stands. Several become one tree of tokens behind the
        prompt; only a model whose layers do not all attend to everything (sliding windows, recurrent states), or that
        scales its logits, gets each choice with the whole prompt before it.
        """
        prompts = [self.renderer.prompt_ids(request.messages, request.begins) for request in requests]
        asked = [[(text, request.ends) for text in row] for request, row in zip(requests, choices, strict=True)]
        ids = {each: self.renderer.completion_ids(*each) for each in set(itertools.chain(*asked))}
        answers = [[ids[each] for each in row] for row in asked]
        self._check_room(prompts, [max(map(len, options), default=0) for options in answers])
        found: dict[int, Scored] = {}
        for adapter, rows in self._by_adapter(requests):
            with self._lock, self._active(adapter):
                for part in score_rows(
                    self._model,
                    rows,
                    prompts,
                    answers,
                    pad_id=self._pad_id,
                    batches=self._batches,
                    trees=any(len(answers[row]) > 1 for row in rows) and self._takes_trees,
                    within=within,
                ):
                    found.update(part)
                    progress(len(found), len(requests))
        return [found[row] for row in range(len(requests))]

    @property
    def _store(self) -> Store:
        if self.store is None:
            raise EngineError("the engine was made without a store, so it knows no adapter by name")
        return self.store

    def _check_room(self, prompts: Sequence[Sequence[int]], answers: Sequence[int]) -> None:
        """Beyond its context a model answers nonsense without saying so, or breaks in the middle of a batch."""
        context = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        if context is None:  # positions without an end
            return
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            if len(prompt) + answer > context:
                raise PromptTooLong(row, len(prompt), answer, context)

    def _by_adapter(self, requests: Sequence[Request]) -> Iterator[tuple[str | None, list[int]]]:
        """Pinned adapter -> the requests that want it; each reference is pinned once, so a batch sees one version."""
        pinned = {name: self.pin(name) for name in {request.adapter for request in requests} if name is not None}
        groups: dict[str | None, list[int]] = {}
        for row, request in enumerate(requests):
            groups.setdefault(pinned[request.adapter] if request.adapter else None, []).append(row)
        yield from groups.items()

    @contextmanager
    def _active(self, adapter: str | None) -> Iterator[None]:
        """The model with just this adapter on; PEFT's choice of adapter is global, so the lock is held around it."""
        import torch

        with torch.inference_mode():
            if adapter is None:
                if not self._attached:
                    yield
                    return
                with self._model.disable_adapter():
                    yield
                return
            if adapter not in self._attached:
                stored = self._store.get(adapter)
                check_files(stored, self.base)
                self._put_on(adapter, stored.path)
            self._model.set_adapter(self._attached[adapter])
            yield

    def _put_on(self, name: str, folder: Path) -> None:
        peft_name = f"adapter_{next(self._numbers)}"
        self._model = attach(self._model, folder, peft_name).eval()
        self._attached[name] = peft_name

    def _batches(self, lengths: Mapping[int, int]) -> Iterator[list[int]]:
        """Rows of similar length together, the longest first, so that memory runs out at once or not at all."""
        batch: list[int] = []
        for row in sorted(lengths, key=lambda row: -lengths[row]):
            if batch and (len(batch) == self.batch_rows or (len(batch) + 1) * lengths[batch[0]] > self.batch_tokens):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    @cached_property
    def _takes_trees(self) -> bool:
        return packs(self._model)

    def _matchers(self, grammars: Sequence[Grammar | None]) -> list[Any | None]:
        return self._constraints.matchers(grammars) if any(grammars) else [None] * len(grammars)

    @cached_property
    def _constraints(self) -> Constraints:
        vocabulary = self._model.get_output_embeddings().weight.shape[0]
        return Constraints(self.renderer.tokenizer, vocabulary, self.renderer.stop_id)

    def _continue(
        self,
        rows: Sequence[int],
        prompts: Sequence[Sequence[int]],
        matchers: Sequence[Any | None],
        max_new_tokens: int,
    ) -> list[list[int]]:
        """The new ids of each row, the stop token and padding among them."""
        from transformers import LogitsProcessorList

        batch = collate([Example(tuple(prompts[row]), len(prompts[row])) for row in rows], self._pad_id)
        prompt = batch["input_ids"].shape[1]
        mask = GrammarMask([matchers[row] for row in rows], rows, prompt, self.renderer.stop_id)
        output = self._model.generate(
            input_ids=batch["input_ids"].to(self._model.device),
            attention_mask=batch["attention_mask"].to(self._model.device),
            logits_processor=LogitsProcessorList([mask]),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            repetition_penalty=1.0,  # some bases set another in their generation_config; greedy means greedy
            no_repeat_ngram_size=0,
            eos_token_id=self.renderer.stop_id,
            pad_token_id=self._pad_id,
        )
        answers: list[list[int]] = output[:, prompt:].tolist()
        return answers

    def _completion(self, prompt: Sequence[int], ids: list[int], max_new_tokens: int) -> Completion:
        stop = self.renderer.stop_id
        stopped = stop in ids[:max_new_tokens]
        answer = ids[: ids.index(stop)] if stopped else ids[:max_new_tokens]
        return Completion(
            text=self.renderer.decode(answer),
            finish="stop" if stopped else "length",
            prompt_tokens=len(prompt),
            completion_tokens=len(answer) + stopped,
        )

    @property
    def _pad_id(self) -> int:
        pad: Any = self.renderer.tokenizer.pad_token_id
        return int(pad)
