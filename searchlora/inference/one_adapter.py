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
from searchlora.inference.scheduling.core import Core, Counts
from searchlora.inference.scheduling.work import Limits, Work
from searchlora.inference.scoring import score_whole
from searchlora.models.batch import collate
from searchlora.prompts import Example


def one_adapter_core(
    model: Any, stop_id: int, pad_id: int, fetch: Callable[[str], Path], *, slots: int, limits: Limits
) -> Core:
    """A core for a model that works on batches with one adapter, as transformers generates.

    Args:
        model: From `models.load.load_model`; PEFT's modules are put into it.
        fetch: Gives the checked folder of an adapter.
        slots: Adapters that are loaded at once.
    """
    counts, vocabulary = Counts(), model.get_output_embeddings().weight.shape[0]
    adapters = PeftAdapters(model, slots, fetch, counts)
    machine = OneAdapter(adapters, stop_id, pad_id, limits, counts)
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

    def __init__(self, adapters: PeftAdapters, stop_id: int, pad_id: int, limits: Limits, counts: Counts) -> None:
        self._adapters = adapters
        self._stop_id, self._pad_id = stop_id, pad_id
        self._limits, self._counts = limits, counts

    @property
    def under_way(self) -> Collection[Work]:
        """None, between two passes."""
        return ()

    def leave(self) -> None:
        """Nothing is left under way."""

    def drop(self) -> None:
        """Nothing is left under way."""

    def admission(self) -> Callable[[Work], bool]:
        """As many as one pass may hold, of one adapter."""
        taken: list[Work] = []

        def admits(work: Work) -> bool:
            longest = max(each.tokens for each in [work, *taken])
            room = self._limits.pass_holds(len(taken) + 1, longest)
            if taken and (not room or work.adapter != taken[0].adapter):
                return False
            taken.append(work)
            return True

        return admits

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
        from transformers import LogitsProcessorList

        if not works:
            return
        batch = collate([Example(work.ids, len(work.ids)) for work in works], self._pad_id)
        prompt = batch["input_ids"].shape[1]
        mask = GrammarMask([work.matcher for work in works], prompt, self._stop_id)
        output = model.generate(
            input_ids=batch["input_ids"].to(model.device),
            attention_mask=batch["attention_mask"].to(model.device),
            logits_processor=LogitsProcessorList([mask]),
            max_new_tokens=max(work.most for work in works),
            do_sample=False,
            repetition_penalty=1.0,  # some bases set another in their generation_config; greedy means greedy
            no_repeat_ngram_size=0,
            eos_token_id=self._stop_id,
            pad_token_id=self._pad_id,
        )
        self._counts.prompt_tokens += sum(len(work.ids) for work in works)
        for row, (work, ids) in enumerate(zip(works, output[:, prompt:].tolist(), strict=True)):
            written = ids[: work.most]
            if self._stop_id in written:
                written = written[: written.index(self._stop_id) + 1]
            self._counts.tokens_written += len(written)
            behind, error = mask.errors.get(row, (work.most, None))
            if error is not None and behind < work.most:
                work.fail(error)
                continue
            work.tell(written)
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
