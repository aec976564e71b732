"""Sequential model runner: one adapter per batch, by PEFT and transformers' own `generate`.

For models that the batched runner does not support (recurrent state, capped scores, logit scaling), and for GPUs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from searchlora.adapters.attach import attach
from searchlora.inference.decoding import AnswerState, append_tokens
from searchlora.inference.engine import ChoiceScores, non_finite_error
from searchlora.inference.out_of_memory import SmallerBatches, is_out_of_memory, request_error
from searchlora.inference.scheduling.engine_core import Counts, EngineCore
from searchlora.inference.scheduling.requests import AnyModelRequest, AnyRequest, GenerateRequest, Limits, ScoreRequest
from searchlora.inference.settings import LocalSettings
from searchlora.models.batch import collate, completion_log_probabilities
from searchlora.prompts import Example

#: Choices of a prompt that are scored in one pass; fixed, so that scores depend on no other request and no limit.
_CHOICES = 16


def sequential_core(
    model: Any,
    stop_id: int,
    pad_id: int,
    fetch: Callable[[str], AbstractContextManager[Path]],
    settings: LocalSettings,
    limits: Limits,
    context: int | None,
) -> EngineCore:
    """An engine core whose batches have one adapter each."""
    if settings.batch_invariant:
        limits = replace(limits, rows=1)
    counts, vocabulary = Counts(), model.get_output_embeddings().weight.shape[0]
    adapters = PeftAdapters(model, settings.max_loras, fetch, counts)
    runner = SequentialModelRunner(adapters, stop_id, pad_id, limits, counts, context)
    return EngineCore(runner, adapters, counts, limits, vocabulary)


class PeftAdapters:
    """A model and the adapters that PEFT has loaded into it: the `LoadedAdapters` of the sequential runner."""

    def __init__(
        self, model: Any, count: int, fetch: Callable[[str], AbstractContextManager[Path]], counts: Counts
    ) -> None:
        self.model = model
        self.loaded: tuple[str, ...] = ()  # least recently used first
        self._count, self._fetch, self._counts = count, fetch, counts

    def expect(self, requests: Iterable[AnyRequest]) -> None:
        """Nothing: an adapter is read when its requests are computed."""

    @contextmanager
    def active(self, name: str | None) -> Iterator[Any]:
        """The model with one adapter active, or with none. Raises as `load`."""
        if name is not None:
            self.load(name)
            self.model.set_adapter(_peft_name(name))
        elif self.loaded:
            with self.model.disable_adapter():
                yield self.model
            return
        yield self.model

    def load(self, name: str) -> None:
        """Load an adapter unless it is loaded; the least recently used one is evicted. Raises `StoreError`."""
        if name in self.loaded:
            self._counts.slot_hits += 1
        else:
            try:
                with self._fetch(name) as folder:
                    if len(self.loaded) >= self._count:
                        self.unload(self.loaded[0])
                        self._counts.slot_evictions += 1
                    self.model = attach(self.model, folder, _peft_name(name)).eval()
                    self.loaded += (name,)
            except BaseException:
                self.unload(name)  # its files changed while they were read
                raise
            self._counts.slot_misses += 1
        self.loaded = (*(other for other in self.loaded if other != name), name)

    def unload(self, name: str) -> bool:
        """Unload an adapter; False if it was not loaded."""
        if name not in self.loaded:
            return False
        self.loaded = tuple(other for other in self.loaded if other != name)
        if self.loaded:
            self.model.delete_adapter(_peft_name(name))
        else:  # PEFT's layers do not compute without any adapter
            self.model = self.model.unload()
        return True


def _peft_name(name: str) -> str:
    return name.replace(".", ":")  # PEFT allows no dots, and no name of an adapter has a colon


class SequentialModelRunner:
    """The `ModelRunner` of such a model: admitted requests are computed completely before others are admitted."""

    def __init__(
        self, adapters: PeftAdapters, stop_id: int, pad_id: int, limits: Limits, counts: Counts, context: int | None
    ) -> None:
        self._adapters, self._counts = adapters, counts
        self._stop_id, self._pad_id = stop_id, pad_id
        self._limits = self._usual = limits
        self._context = context
        self._smaller = SmallerBatches()
        self._admitted: list[AnyModelRequest] = []
        self.running: Collection[GenerateRequest] = ()

    def release_finished(self) -> None: ...

    def drop_all(self) -> None:
        self.running = ()

    def admission(self, waiting: Collection[Hashable]) -> SequentialModelRunner:
        """Itself: one round of admission ends with the pass that computes it."""
        del waiting
        if self._smaller.have_ended():
            self._limits = self._usual
        self._admitted = []
        return self

    def may_take(self, request: AnyRequest) -> bool:
        """True: no request holds anything between two passes."""
        del request
        return True

    def fits(self, request: Any) -> bool:
        """Whether one pass has room: all have one adapter, and generate after the longest prompt to the last end."""
        admitted = [*self._admitted, request]
        prompt = max(len(each.ids) for each in admitted)
        new = max((each.max_new_tokens for each in admitted if isinstance(each, GenerateRequest)), default=0)
        in_context = self._context is None or not new or prompt + new <= self._context
        has_room = in_context and self._limits.pass_holds(len(admitted), prompt + new)
        if self._admitted and not (has_room and request.adapter == admitted[0].adapter):
            return False
        self._admitted = admitted
        return True

    def compute(self, requests: Sequence[AnyModelRequest]) -> None:
        """Generate and score; an error fails all requests of the pass."""
        if not requests:
            return
        answers = [AnswerState(request) for request in requests if isinstance(request, GenerateRequest)]
        try:
            with self._adapters.active(requests[0].adapter) as model:
                self.running = tuple(answer.request for answer in answers)
                self._generate(model, answers)
                for request in requests:
                    if isinstance(request, ScoreRequest):
                        self._score(model, request)
        except Exception as error:
            for request in requests:
                request.fail(request_error(error))
        finally:
            self.running = ()

    def _generate(self, model: Any, answers: Sequence[AnswerState]) -> None:
        """Generate answers to their end; if memory runs out, halves of them go on from the tokens that they have."""
        if not answers:
            return
        self._counts.prompt_tokens += sum(len(answer.request.ids) + len(answer.ids) for answer in answers)
        try:
            self._generate_together(model, answers)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if len(answers) == 1 and not answers[0].ended:
                answers[0].error = request_error(error)
            left = [answer for answer in answers if not self._is_closed(answer)]
        else:
            left = []
        for answer in answers:
            if answer not in left:
                self._counts.generated_tokens += len(answer.ids)
                answer.settle()
        if left:
            self._smaller.warn_and_free(len(answers))
            self._limits = replace(self._limits, rows=max(1, len(answers) // 2))
        half = (len(left) + 1) // 2
        self._generate(model, left[:half])
        self._generate(model, left[half:])

    def _is_closed(self, answer: AnswerState) -> bool:
        return answer.ended or answer.request.is_over or answer.ids[-1:] == [self._stop_id]

    def _generate_together(self, model: Any, answers: Sequence[AnswerState]) -> None:
        from transformers import LogitsProcessorList

        def choose(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            """Choose the tokens of the open rows. The others get the stop token, with which `generate` ends them."""
            open_ = {row: answer for row, answer in enumerate(answers) if not self._is_closed(answer)}
            self._counts.decode_steps += 1
            self._counts.decoded_rows += len(open_)
            if open_:
                append_tokens([*open_.values()], scores[[*open_]].cpu(), self._stop_id)
            chosen = scores.new_full(scores.shape, -math.inf)
            for row, answer in enumerate(answers):
                is_chosen = row in open_ and answer.error is None
                chosen[row, answer.ids[-1] if is_chosen else self._stop_id] = 0
                if is_chosen:
                    answer.request.report(answer.ids)
            return chosen

        batch = collate([Example(ids, len(ids)) for ids in ((*a.request.ids, *a.ids) for a in answers)], self._pad_id)
        model.generate(
            input_ids=batch["input_ids"].to(model.device),
            attention_mask=batch["attention_mask"].to(model.device),
            logits_processor=LogitsProcessorList([choose]),
            max_new_tokens=max(answer.request.max_new_tokens - len(answer.ids) for answer in answers),
            do_sample=False,
            repetition_penalty=1.0,  # the generation_config of some bases sets another one
            no_repeat_ngram_size=0,
            eos_token_id=self._stop_id,
            pad_token_id=self._pad_id,
        )

    def _score(self, model: Any, request: ScoreRequest, rows: int = _CHOICES) -> None:
        """Score the choices of a prompt; one by one if memory runs out."""
        if request.is_over:
            request.fail_late()
            return
        score = score_sequences if model._is_stateful else score_after_prompt
        try:
            scored = score(model, request.ids, request.choices, rows)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if rows == 1:
                request.fail(request_error(error))
                return
        else:
            self._counts.scored_requests += 1
            self._counts.prompt_tokens += scored.prompt_tokens
            is_finite = all(map(math.isfinite, scored.log_probabilities))
            request.finish(scored) if is_finite else request.fail(non_finite_error(request.adapter))
            return
        self._smaller.warn_and_free(rows)
        self._score(model, request, 1)


def score_after_prompt(model: Any, prompt: Sequence[int], choices: Sequence[Sequence[int]], rows: int) -> ChoiceScores:
    """Score the choices of a prompt, which is computed once: its cache is repeated for `rows` choices in a pass."""
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([prompt], device=model.device), use_cache=True, logits_to_keep=1)
        first = output.logits[0, -1].float().log_softmax(-1).cpu()
        scores = {tuple(choice): float(first[choice[0]]) for choice in choices}
        longer = sorted((choice for choice in scores if len(choice) > 1), key=len)
        for start in range(0, len(longer), rows):
            batch = longer[start : start + rows]
            width = len(batch[-1]) - 1
            ids = torch.tensor([[*choice[:-1], *[0] * (width + 1 - len(choice))] for choice in batch])
            cache = copy.deepcopy(output.cache)
            cache.batch_repeat_interleave(len(batch))
            # Padding comes after the choices, which do not attend to it.
            logits = model(input_ids=ids.to(model.device), cache=cache, use_cache=True).logits
            for row, choice in enumerate(batch):
                steps = logits[row, : len(choice) - 1].float().log_softmax(-1).cpu()
                scores[choice] += float(steps.gather(1, torch.tensor(choice[1:])[:, None]).sum())
    values = tuple(scores[tuple(choice)] for choice in choices)
    return ChoiceScores(values, len(prompt), sum(len(choice) for choice in scores))


def score_sequences(model: Any, prompt: Sequence[int], choices: Sequence[Sequence[int]], rows: int) -> ChoiceScores:
    """Score each choice as one sequence with its whole prompt: what any causal language model supports."""
    values: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(choices), rows):
            examples = [Example((*prompt, *choice), len(prompt)) for choice in choices[start : start + rows]]
            batch = {name: tensor.to(model.device) for name, tensor in collate(examples, pad_id=0).items()}
            values += completion_log_probabilities(model, batch).sum(-1).tolist()
    return ChoiceScores(tuple(values), len(prompt) * len(values), sum(map(len, choices)))
