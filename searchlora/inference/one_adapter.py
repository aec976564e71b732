"""Models that `batched` does not fit (windows, recurrent states, scaled logits): one adapter at a time, by PEFT."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from searchlora.adapters.attach import attach
from searchlora.inference.batched.waiting import Work
from searchlora.inference.constrained import GrammarMask
from searchlora.inference.scoring import score_whole
from searchlora.models.batch import collate
from searchlora.prompts import Example


class OneAdapterCore:
    """Does works of one adapter after the other, in batches, as transformers generates.

    Args:
        model: From `models.load.load_model`; PEFT's modules are put into it.
        fetch: Gives the checked folder of an adapter.
        rows, tokens: Of one forward pass at most; tokens are rows times the longest.
    """

    def __init__(
        self, model: Any, stop_id: int, pad_id: int, fetch: Callable[[str], Path], *, rows: int, tokens: int
    ) -> None:
        self.vocabulary = model.get_output_embeddings().weight.shape[0]
        self._model = model
        self._stop_id, self._pad_id = stop_id, pad_id
        self._fetch = fetch
        self._rows, self._tokens = rows, tokens
        self._attached: dict[str, str] = {}  # name -> PEFT's name for it, in which no dot is allowed
        self._numbers = itertools.count()
        self._thread = ThreadPoolExecutor(1, "searchlora-engine")

    def submit(self, works: Sequence[Work], caller: Hashable) -> None:
        """Do works, those of one call together, after those of the calls before it."""
        del caller
        self._thread.submit(self._do, works)

    def finish(self, works: Sequence[Work]) -> None:
        """The same, and wait until they are done."""
        self._thread.submit(self._do, works).result()

    def load(self, name: str) -> None:
        """Put an adapter on, unless it is. Raises `LoadCheckFailed`."""
        self._run(lambda: self._put_on(name))

    def unload(self, name: str) -> bool:
        """Whether the adapter was on."""
        return bool(self._run(lambda: self._take_off(name)))

    def stats(self) -> None:
        """Nothing is counted."""

    def close(self, seconds: float) -> None:
        """Take nothing more, and finish what waits."""
        del seconds
        self._thread.shutdown()

    def _run(self, errand: Callable[[], Any]) -> Any:
        return self._thread.submit(errand).result()

    def _do(self, works: Sequence[Work]) -> None:
        groups: dict[str | None, list[Work]] = {}
        for work in works:
            groups.setdefault(work.adapter, []).append(work)
        for adapter, group in groups.items():
            try:
                with self._active(adapter):
                    self._write([work for work in group if work.answers is None and not work.over])
                    self._score([work for work in group if work.answers is not None and not work.over])
            except Exception as error:
                for work in group:
                    work.fail(error)

    def _write(self, works: Sequence[Work]) -> None:
        from transformers import LogitsProcessorList

        for rows in self._batches({row: len(work.ids) for row, work in enumerate(works)}):
            asked = [works[row] for row in rows]
            batch = collate([Example(work.ids, len(work.ids)) for work in asked], self._pad_id)
            prompt = batch["input_ids"].shape[1]
            mask = GrammarMask([work.matcher for work in asked], rows, prompt, self._stop_id)
            output = self._model.generate(
                input_ids=batch["input_ids"].to(self._model.device),
                attention_mask=batch["attention_mask"].to(self._model.device),
                logits_processor=LogitsProcessorList([mask]),
                max_new_tokens=max(work.most for work in asked),
                do_sample=False,
                repetition_penalty=1.0,  # some bases set another in their generation_config; greedy means greedy
                no_repeat_ngram_size=0,
                eos_token_id=self._stop_id,
                pad_token_id=self._pad_id,
            )
            for work, ids in zip(asked, output[:, prompt:].tolist(), strict=True):
                written = ids[: work.most]
                if self._stop_id in written:
                    written = written[: written.index(self._stop_id) + 1]
                if work.told is not None:
                    work.told(written)
                work.done(written)

    def _score(self, works: Sequence[Work]) -> None:
        prompts = [work.ids for work in works]
        answers = [work.answers or () for work in works]
        for part in score_whole(
            self._model, range(len(works)), prompts, answers, pad_id=self._pad_id, batches=self._batches
        ):
            for row, scored in part.items():
                works[row].done(scored)

    @contextmanager
    def _active(self, adapter: str | None) -> Iterator[None]:
        import torch

        with torch.inference_mode():
            if adapter is None:
                if not self._attached:
                    yield
                    return
                with self._model.disable_adapter():
                    yield
                return
            self._put_on(adapter)
            self._model.set_adapter(self._attached[adapter])
            yield

    def _put_on(self, name: str) -> None:
        if name not in self._attached:
            peft_name = f"adapter_{next(self._numbers)}"
            self._model = attach(self._model, self._fetch(name), peft_name).eval()
            self._attached[name] = peft_name

    def _take_off(self, name: str) -> bool:
        if name not in self._attached:
            return False
        self._model.delete_adapter(self._attached.pop(name))
        return True

    def _batches(self, lengths: Mapping[int, int]) -> Iterator[list[int]]:
        """Rows of similar length together, the longest first, so that memory runs out at once or not at all."""
        batch: list[int] = []
        for row in sorted(lengths, key=lambda row: -lengths[row]):
            if batch and (len(batch) == self._rows or (len(batch) + 1) * lengths[batch[0]] > self._tokens):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch
