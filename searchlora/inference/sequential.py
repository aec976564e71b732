"""Sequential model runner: one adapter per batch, by PEFT and transformers' own `generate`.

For models that the batched runner does not support (recurrent state, capped scores, logit scaling), and for GPUs.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from searchlora.adapters.attach import attach
from searchlora.inference.decoding import AnswerState, append_tokens
from searchlora.inference.engine import ChoiceScores, non_finite_error
from searchlora.inference.out_of_memory import SmallerBatches, is_out_of_memory, request_error
from searchlora.inference.scheduling.engine_core import Counts, EngineCore
from searchlora.inference.scheduling.requests import (
    AnyModelRequest,
    AnyRequest,
    GenerateRequest,
    Limits,
    ModelRequest,
    ScoreRequest,
)
from searchlora.inference.settings import LocalSettings
from searchlora.models.batch import collate, completion_log_probabilities
from searchlora.prompts import Example

#: Choices of a prompt that are scored in one pass; fixed, so that scores depend on no other request and no limit.
_CHOICES = 16

#: Lengths of sequences -> the sequences of each batch.
Batches = Callable[[Mapping[int, int]], Iterator[list[int]]]


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
    """A model and the adapters that PEFT has loaded into it."""

    def __init__(
        self, model: Any, count: int, fetch: Callable[[str], AbstractContextManager[Path]], counts: Counts
    ) -> None:
        self.model = model
        self.loaded: tuple[str, ...] = ()
        self._count, self._fetch, self._counts = count, fetch, counts
        self._names: OrderedDict[str, str] = OrderedDict()  # name -> PEFT's name, without dots; most recent last
        self._numbers = itertools.count()

    def expect(self, requests: Iterable[AnyRequest]) -> None:
        """Nothing: an adapter is read when its requests are computed."""

    @contextmanager
    def active(self, name: str | None) -> Iterator[Any]:
        """The model with one adapter active, or with none. Raises as `load`."""
        if name is not None:
            self.load(name)
            self.model.set_adapter(self._names[name])
        if name is not None or not self._names:
            yield self.model
            return
        with self.model.disable_adapter():
            yield self.model

    def load(self, name: str) -> None:
        """Load an adapter unless it is loaded; the least recently used one is evicted. Raises `StoreError`."""
        if name in self._names:
            self._counts.slot_hits += 1
        else:
            try:
                with self._fetch(name) as folder:
                    self._attach(name, folder)
            except BaseException:
                self.unload(name)  # its files changed while they were read
                raise
            self._counts.slot_misses += 1
        self._names.move_to_end(name)
        self.loaded = tuple(self._names)

    def _attach(self, name: str, folder: Path) -> None:
        if len(self._names) >= self._count:
            self.unload(next(iter(self._names)))
            self._counts.slot_evictions += 1
        peft_name = f"adapter_{next(self._numbers)}"
        self.model = attach(self.model, folder, peft_name).eval()
        self._names[name] = peft_name

    def unload(self, name: str) -> bool:
        """Unload an adapter; False if it was not loaded."""
        if name not in self._names:
            return False
        peft_name = self._names.pop(name)
        if self._names:
            self.model.delete_adapter(peft_name)
        else:  # PEFT's layers do not compute without any adapter
            self.model = self.model.unload()
        self.loaded = tuple(self._names)
        return True


class SequentialAdmission:
    """One round of admission to a pass, whose requests have one adapter."""

    def __init__(self, holds: Callable[[Sequence[AnyModelRequest]], bool]) -> None:
        self._holds = holds
        self._admitted: list[AnyModelRequest] = []

    def may_take(self, _: AnyRequest) -> bool:
        """True: no request holds anything between two passes."""
        return True

    def fits(self, request: AnyRequest) -> bool:
        assert isinstance(request, ModelRequest)
        admitted = self._admitted
        if admitted and (request.adapter != admitted[0].adapter or not self._holds([request, *admitted])):
            return False
        admitted.append(request)
        return True


class SequentialModelRunner:
    """The `ModelRunner` of such a model: admitted requests are computed completely before others are admitted."""

    def __init__(
        self,
        adapters: PeftAdapters,
        stop_id: int,
        pad_id: int,
        limits: Limits,
        counts: Counts,
        context: int | None,
    ) -> None:
        self._adapters = adapters
        self._stop_id, self._pad_id = stop_id, pad_id
        self._limits, self._counts = limits, counts
        self._context = context
        self._choices = _CHOICES
        self._smaller = SmallerBatches()
        self._generating: tuple[GenerateRequest, ...] = ()

    @property
    def running(self) -> Collection[GenerateRequest]:
        return self._generating

    def release_finished(self) -> None: ...

    def drop_all(self) -> None:
        self._generating = ()

    def admission(self, waiting: Collection[Hashable]) -> SequentialAdmission:
        del waiting
        return SequentialAdmission(self._holds)

    def _holds(self, requests: Sequence[AnyModelRequest]) -> bool:
        """Whether one pass has room: all generate after the longest prompt, until the last row ends."""
        prompt = max(len(request.ids) for request in requests)
        new = max((request.max_new_tokens for request in requests if isinstance(request, GenerateRequest)), default=0)
        longest = max(prompt + new, *(request.max_tokens for request in requests))
        fits = self._context is None or not new or prompt + new <= self._context
        return fits and self._limits.pass_holds(len(requests), longest)

    def compute(self, requests: Sequence[AnyModelRequest]) -> None:
        """Generate and score; an error fails all requests of the pass."""
        if not requests:
            return
        try:
            with self._adapters.active(requests[0].adapter) as model:
                generate = [request for request in requests if isinstance(request, GenerateRequest)]
                score = [request for request in requests if isinstance(request, ScoreRequest)]
                self._generating = tuple(generate)
                self._generate(model, [AnswerState(request) for request in generate])
                self._score(model, score)
        except Exception as error:
            for request in requests:
                request.fail(request_error(error))
        finally:
            self._generating = ()

    def _generate(self, model: Any, answers: Sequence[AnswerState]) -> None:
        """Generate answers to their end; if memory runs out, halves of them go on from the tokens that they have."""
        if not answers:
            return
        rows = OpenRows(answers, self._stop_id, self._counts)
        before = sum(len(answer.ids) for answer in answers)
        try:
            self._generate_together(model, answers, rows)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if len(answers) == 1 and not answers[0].ended:
                answers[0].error = request_error(error)
        self._counts.generated_tokens += sum(len(answer.ids) for answer in answers) - before
        open_ = [answer for answer in rows.open_answers if not answer.ended]
        self._finish([answer for answer in answers if answer not in open_])
        if open_:
            self._smaller.warn_and_free(len(answers))
            self._limits = replace(self._limits, rows=max(1, len(answers) // 2))
        half = (len(open_) + 1) // 2
        self._generate(model, open_[:half])
        self._generate(model, open_[half:])

    def _finish(self, answers: Sequence[AnswerState]) -> None:
        for answer in answers:
            request = answer.request
            if answer.error is not None:
                request.fail(answer.error)
            elif request.is_over:
                request.fail_late()
            else:
                request.finish(answer.ids)

    def _generate_together(self, model: Any, answers: Sequence[AnswerState], rows: OpenRows) -> None:
        from transformers import LogitsProcessorList, StoppingCriteriaList

        prompts = [(*answer.request.ids, *answer.ids) for answer in answers]
        batch = collate([Example(ids, len(ids)) for ids in prompts], self._pad_id)
        self._counts.prompt_tokens += sum(map(len, prompts))
        model.generate(
            input_ids=batch["input_ids"].to(model.device),
            attention_mask=batch["attention_mask"].to(model.device),
            logits_processor=LogitsProcessorList([rows.choose]),
            stopping_criteria=StoppingCriteriaList([rows.report]),
            max_new_tokens=max(answer.request.max_new_tokens - len(answer.ids) for answer in answers),
            do_sample=False,
            repetition_penalty=1.0,  # the generation_config of some bases sets another one
            no_repeat_ngram_size=0,
            eos_token_id=self._stop_id,
            pad_token_id=self._pad_id,
        )

    def _score(self, model: Any, requests: Sequence[ScoreRequest]) -> None:
        for request in requests:
            if request.is_over:
                continue
            try:
                scored = self._scored(model, request)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                request.fail(request_error(error))
                continue
            if all(map(math.isfinite, scored.log_probabilities)):
                request.finish(scored)
            else:
                request.fail(non_finite_error(request.adapter))
            self._counts.scored_requests += 1
            self._counts.prompt_tokens += scored.prompt_tokens
        for request in requests:
            request.fail_late()

    def _scored(self, model: Any, request: ScoreRequest) -> ChoiceScores:
        """Scores of a request's choices; with fewer choices in a pass if memory runs out."""
        if model._is_stateful:  # a recurrent state cannot be repeated for the choices
            return dict(
                score_sequences(model, [request.ids], [request.choices], pad_id=self._pad_id, batches=self._batches)
            )[0]
        while True:
            try:
                return score_after_prompt(model, request.ids, request.choices, self._choices)
            except Exception as error:
                if not is_out_of_memory(error) or self._choices == 1:
                    raise
            self._smaller.warn_and_free(self._choices)
            self._choices //= 2

    def _batches(self, lengths: Mapping[int, int]) -> Iterator[list[int]]:
        """Batches of similar length, the longest first: if memory is too small, the first batch shows it."""
        batch: list[int] = []
        for row in sorted(lengths, key=lambda row: -lengths[row]):
            if batch and not self._limits.pass_holds(len(batch) + 1, lengths[batch[0]]):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch


class OpenRows:
    """The rows of a batch of `generate` that have not ended, and two functions that it calls at each step."""

    def __init__(self, answers: Sequence[AnswerState], stop_id: int, counts: Counts) -> None:
        self._answers, self._stop_id, self._counts = answers, stop_id, counts
        self._open = list(range(len(answers)))

    def choose(self, input_ids: Any, scores: Any) -> Any:
        """A logits processor that chooses the tokens of the open rows; no other token keeps a finite score."""
        del input_ids
        answers = [self._answers[row] for row in self._open]
        append_tokens(answers, scores[self._open].cpu(), self._stop_id)
        chosen = scores.new_full(scores.shape, -math.inf)
        for row, answer in zip(self._open, answers, strict=True):
            chosen[row, self._stop_id if answer.error is not None else answer.ids[-1]] = 0
        return chosen

    @property
    def open_answers(self) -> list[AnswerState]:
        return [self._answers[row] for row in self._open]

    def report(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """A stopping criterion that reports the tokens so far; which rows are done or cancelled, shape (rows,)."""
        del scores
        self._counts.decode_steps += 1
        self._counts.decoded_rows += len(self._open)
        for row in self._open.copy():
            answer, request = self._answers[row], self._answers[row].request
            if answer.error is None:
                request.report(answer.ids)
            if answer.ended or answer.ids[-1] == self._stop_id or request.is_over:
                self._open.remove(row)
        ended = [row not in self._open for row in range(len(self._answers))]
        return input_ids.new_tensor(ended).bool()


def score_after_prompt(model: Any, prompt: Sequence[int], choices: Sequence[Sequence[int]], rows: int) -> ChoiceScores:
    """Score the choices of a prompt, which is computed once: its cache is repeated for the choices.

    Args:
        prompt: Token ids.
        choices: Token ids of each choice, none empty.
        rows: Number of choices that are computed in one pass.
    """
    import torch

    with torch.inference_mode():
        tokens = torch.tensor([list(prompt)], device=model.device)
        output = model(input_ids=tokens, use_cache=True, logits_to_keep=1)
        first = output.logits[0, -1].float().log_softmax(-1)
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
                steps = logits[row, : len(choice) - 1].float().log_softmax(-1)
                targets = torch.tensor(choice[1:], device=model.device)
                scores[choice] += float(steps.gather(1, targets[:, None]).sum())
    values = tuple(scores[tuple(choice)] for choice in choices)
    return ChoiceScores(values, len(prompt), sum(len(choice) for choice in scores))


def score_sequences(
    model: Any,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[Sequence[Sequence[int]]],
    *,
    pad_id: int,
    batches: Batches,
) -> Iterator[tuple[int, ChoiceScores]]:
    """Score each choice as one sequence with its whole prompt: what any causal language model supports.

    Args:
        prompts: Token ids of each row's prompt.
        choices: Token ids of each row's choices, the stop token at the end of each.
        batches: Splits sequences into batches by their lengths.

    Yields:
        Each row and its scores, as soon as they are complete.
    """
    rows = range(len(prompts))
    places = [(row, index) for row in rows for index in range(len(choices[row]))]
    examples = [Example((*prompts[row], *choices[row][index]), len(prompts[row])) for row, index in places]
    values: dict[int, dict[int, float]] = {row: {} for row in rows}
    for batch in batches({place: len(example.input_ids) for place, example in enumerate(examples)}):
        tensors = collate([examples[place] for place in batch], pad_id)
        on_device = {name: tensor.to(model.device) for name, tensor in tensors.items()}
        sums = completion_log_probabilities(model, on_device).sum(-1).tolist()
        for place, value in zip(batch, sums, strict=True):
            row, index = places[place]
            values[row][index] = value
            if len(values[row]) == len(choices[row]):
                scores = tuple(values[row][number] for number in range(len(choices[row])))
                yield row, ChoiceScores(scores, len(prompts[row]) * len(scores), sum(map(len, choices[row])))
