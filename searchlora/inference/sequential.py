"""Models that `batched` does not fit (windows, recurrent states, scaled logits): one adapter at a time, by PEFT."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from searchlora.adapters.attach import attach
from searchlora.inference.constrained import GrammarMask
from searchlora.inference.scheduling.engine_core import Core, Counts
from searchlora.inference.scheduling.requests import Limits, Work
from searchlora.inference.scoring import score_whole
from searchlora.models.batch import collate
from searchlora.prompts import Example


def one_adapter_core(
    model: Any,
    stop_id: int,
    pad_id: int,
    fetch: Callable[[str], Path],
    *,
    slots: int,
    limits: Limits,
    context: int | None,
) -> Core:
    """A core for a model that works on batches with one adapter, as transformers generates.

    Args:
        model: From `models.load.load_model`; PEFT's modules are put into it.
        fetch: Gives the checked folder of an adapter.
        slots: Adapters that are loaded at once.
        context: Tokens that the model takes; None where its positions have no end.
    """
    counts, vocabulary = Counts(), model.get_output_embeddings().weight.shape[0]
    adapters = PeftAdapters(model, slots, fetch, counts)
    machine = OneAdapter(adapters, stop_id, pad_id, limits, counts, context)
    return Core(machine, adapters, counts, limits, vocabulary)


class PeftAdapters:
    """A model and the adapters that PEFT has put into it.

    Attributes:
        model: With all of them; which one computes is told by `worn`.
        loaded: Their names; for any thread to read.
    """

    def __init__(self, model: Any, count: int, fetch: Callable[[str], Path], counts: Counts) -> None:
        self.model = model
        self.loaded: tuple[str, ...] = ()
        self._count, self._fetch, self._counts = count, fetch, counts
        self._names: OrderedDict[str, str] = OrderedDict()  # name -> PEFT's for it, without dots; latest used last
        self._numbers = itertools.count()

    @contextmanager
    def worn(self, name: str | None) -> Iterator[Any]:
        """The model with an adapter on, None: without any. Raises as `load`."""
        if name is not None:
            self.load(name)
            self.model.set_adapter(self._names[name])
        if name is not None or not self._names:
            yield self.model
            return
        with self.model.disable_adapter():
            yield self.model

    def load(self, name: str) -> None:
        """Put an adapter on, unless it is; the one used longest ago makes room. Raises `StoreError`."""
        if name in self._names:
            self._counts.slot_hits += 1
        else:
            folder = self._fetch(name)
            if len(self._names) >= self._count:
                self.unload(next(iter(self._names)))
                self._counts.slot_evictions += 1
            peft_name = f"adapter_{next(self._numbers)}"
            self.model = attach(self.model, folder, peft_name).eval()
            self._names[name] = peft_name
            self._counts.slot_misses += 1
        self._names.move_to_end(name)
        self.loaded = tuple(self._names)

    def unload(self, name: str) -> bool:
        """Whether the adapter was on."""
        if name not in self._names:
            return False
        peft_name = self._names.pop(name)
        if self._names:
            self.model.delete_adapter(peft_name)
        else:  # PEFT's layers do not compute without any adapter
            self.model = self.model.unload()
        self.loaded = tuple(self._names)
        return True


class OneAdapter:
    """The `Machine` of such a model: what is taken is done before anything else is."""

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
        self._writing: tuple[Work, ...] = ()

    @property
    def under_way(self) -> Collection[Work]:
        """Works whose rows write; none between two passes."""
        return self._writing

    def leave(self) -> None:
        """Nothing is left under way."""

    def drop(self) -> None:
        """Nothing is left under way."""
        self._writing = ()

    def admission(self) -> Callable[[Work], bool]:
        """As many as one pass may hold, of one adapter."""
        taken: list[Work] = []

        def admits(work: Work) -> bool:
            if taken and (work.adapter != taken[0].adapter or not self._holds([work, *taken])):
                return False
            taken.append(work)
            return True

        return admits

    def _holds(self, works: Sequence[Work]) -> bool:
        """Whether one pass has room: all write behind the longest prompt, until the last has written its most."""
        prompt = max(len(work.ids) for work in works)
        most = max((work.most for work in works if work.answers is None), default=0)
        longest = max(prompt + most, *(work.tokens for work in works))
        fits = self._context is None or not most or prompt + most <= self._context
        return fits and self._limits.pass_holds(len(works), longest)

    def compute(self, works: Sequence[Work]) -> None:
        """Write and score; what goes wrong fails those that were in it."""
        if not works:
            return
        try:
            with self._adapters.worn(works[0].adapter) as model:
                self._write(model, [work for work in works if work.answers is None])
                self._score(model, [work for work in works if work.answers is not None])
        except Exception as error:
            for work in works:
                work.fail(error)

    def _write(self, model: Any, works: Sequence[Work]) -> None:
        if not works:
            return
        self._writing = tuple(works)
        try:
            self._generate(model, works)
        finally:
            self._writing = ()

    def _generate(self, model: Any, works: Sequence[Work]) -> None:
        from transformers import LogitsProcessorList, StoppingCriteriaList

        batch = collate([Example(work.ids, len(work.ids)) for work in works], self._pad_id)
        prompt = batch["input_ids"].shape[1]
        mask = GrammarMask([work.matcher for work in works], prompt, self._stop_id)
        output = model.generate(
            input_ids=batch["input_ids"].to(model.device),
            attention_mask=batch["attention_mask"].to(model.device),
            logits_processor=LogitsProcessorList([mask]),
            stopping_criteria=StoppingCriteriaList([Rows(works, mask, prompt, self._stop_id, self._counts)]),
            max_new_tokens=max(work.most for work in works),
            do_sample=False,
            repetition_penalty=1.0,  # some bases set another in their generation_config; greedy means greedy
            no_repeat_ngram_size=0,
            eos_token_id=self._stop_id,
            pad_token_id=self._pad_id,
        )
        self._counts.prompt_tokens += sum(len(work.ids) for work in works)
        for row, (work, ids) in enumerate(zip(works, output[:, prompt:].tolist(), strict=True)):
            written = _written(ids, work, self._stop_id)
            self._counts.tokens_written += len(written)
            if row in mask.errors:
                work.fail(mask.errors[row])
            elif work.over:
                work.fail_late()
            else:
                work.done(written)

    def _score(self, model: Any, works: Sequence[Work]) -> None:
        prompts = [work.ids for work in works]
        answers = [work.answers or () for work in works]
        for part in score_whole(model, range(len(works)), prompts, answers, pad_id=self._pad_id, batches=self._batches):
            for row, scored in part.items():
                works[row].done(scored)
                self._counts.scored += 1
                self._counts.prompt_tokens += scored.prompt_tokens

    def _batches(self, lengths: Mapping[int, int]) -> Iterator[list[int]]:
        """Rows of similar length together, the longest first, so that memory runs out at once or not at all."""
        batch: list[int] = []
        for row in sorted(lengths, key=lambda row: -lengths[row]):
            if batch and not self._limits.pass_holds(len(batch) + 1, lengths[batch[0]]):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch


class Rows:
    """A transformers stopping criterion: tells each work its tokens, and ends a row that is done or unwanted."""

    def __init__(self, works: Sequence[Work], mask: GrammarMask, prompt: int, stop_id: int, counts: Counts) -> None:
        self._works, self._mask, self._prompt, self._stop_id = works, mask, prompt, stop_id
        self._counts = counts
        self._open = set(range(len(works)))

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """Which rows are done; shape (rows,)."""
        del scores
        self._counts.steps += 1
        self._counts.rows_stepped += len(self._open)
        new = input_ids[:, self._prompt :].tolist()
        for row in list(self._open):
            work = self._works[row]
            written = _written(new[row], work, self._stop_id)
            if row not in self._mask.errors:
                work.tell(written)
            if written[-1] == self._stop_id or len(written) == work.most or work.over:
                self._open.discard(row)
                self._mask.leave(row)
        ended = [row not in self._open for row in range(len(self._works))]
        return input_ids.new_tensor(ended).bool()


def _written(ids: Sequence[int], work: Work, stop_id: int) -> list[int]:
    """What belongs to the answer, of all that stands behind a prompt in a batch."""
    found = list(ids[: work.most])
    return found[: found.index(stop_id) + 1] if stop_id in found else found
