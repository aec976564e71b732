"""What is computed between two takings: new rows enter, answers are scored, and all rows that write take a step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from searchlora.inference.batched.choice_scoring import score_trees
from searchlora.inference.batched.decode import Row, Writer
from searchlora.inference.batched.forward import NotFinite
from searchlora.inference.batched.lora_slots import Slots
from searchlora.inference.batched.prefill import Prompt, Reader, Spoiled
from searchlora.inference.scheduling.engine_core import Counts
from searchlora.inference.scheduling.requests import Limits, Work


@dataclass
class _Taken:
    """What is taken from the lines for the next passes, and what is under way."""

    rows: int
    longest: int
    worn: set[str]
    scored: list[Work] = field(default_factory=list)


class Passes:
    """The `Machine` of rows with adapters of their own."""

    def __init__(self, writer: Writer, reader: Reader, slots: Slots, limits: Limits, counts: Counts) -> None:
        self._writer, self._reader, self._slots = writer, reader, slots
        self._limits, self._counts = limits, counts
        self._writing: dict[Row, Work] = {}

    @property
    def under_way(self) -> Collection[Work]:
        """Works whose rows write."""
        return self._writing.values()

    def leave(self) -> None:
        """Let go of rows that ended, or that nobody waits for."""
        for row in self._writer.leave(lambda row: row.ended or self._writing[row].over):
            work = self._writing.pop(row)
            self._slots.doff(row.prompt.adapter)
            if row.error is not None:
                work.fail(row.error)
            elif row.ended:
                work.done(row.ids)
            else:
                work.fail_late()

    def admission(self) -> Callable[[Work], bool]:
        """For one taking: whether a work can be computed beside those taken before it, and those under way."""
        rows = self._writer.rows
        taken = _Taken(len(rows), max((row.longest for row in rows), default=0), set(self._slots.worn))
        return lambda work: self._admits(work, taken)

    def compute(self, works: Sequence[Work]) -> None:
        """Score, let new rows enter, and let all rows write a token."""
        self._begin([work for work in works if work.answers is not None], self._score)
        self._begin([work for work in works if work.answers is None], self._enter)
        self.leave()
        if self._writing:
            self._step()

    def drop(self) -> None:
        """Forget all rows."""
        for row in self._writing:
            self._slots.doff(row.prompt.adapter)
        self._writing.clear()
        self._writer.drop()

    def _admits(self, work: Work, taken: _Taken) -> bool:
        if work.adapter is not None and work.adapter not in taken.worn and len(taken.worn) >= self._slots.count:
            return False
        if work.answers is not None:
            longest = max(each.tokens for each in [work, *taken.scored])
            room = self._limits.pass_holds(len(taken.scored) + 1, longest)
            if taken.scored and (not room or work.prune_margin != taken.scored[0].prune_margin):
                return False
            taken.scored.append(work)
        else:
            longest = max(taken.longest, work.tokens)
            if taken.rows and (taken.rows >= self._limits.rows or (taken.rows + 1) * longest > self._limits.tokens):
                return False
            taken.rows, taken.longest = taken.rows + 1, longest
        if work.adapter is not None:
            taken.worn.add(work.adapter)
        return True

    def _begin(self, works: Sequence[Work], do: Callable[[dict[Prompt, Work]], None]) -> None:
        """Load what the works wear, and compute them together; what does not come to write takes it off again.

        Works whose prompts are read as no finite numbers fail, and the others are computed again. What else goes
        wrong in a pass (memory runs out, a kernel refuses) fails those that were in it; rows that write go on.
        """
        ready: dict[Prompt, Work] = {}
        refused: dict[str | None, Exception] = {}  # a check takes time, and all writing rows wait for it
        try:
            for work in works:
                if work.over:
                    work.fail_late()
                elif work.adapter in refused:
                    work.fail(refused[work.adapter])
                else:
                    try:
                        slot = self._slots.wear(work.adapter)
                        ready[Prompt(work.ids, work.adapter, slot, work.keep_prefix)] = work
                    except Exception as error:
                        refused[work.adapter] = error
                        work.fail(error)
            left = dict(ready)
            while left:
                try:
                    do(left)
                    return
                except Spoiled as error:
                    for prompt in error.among(list(left)):
                        left.pop(prompt).fail(NotFinite.of(prompt.adapter))
        except Exception as error:
            for work in ready.values():
                work.fail(error)
        finally:
            writing = {id(row.prompt) for row in self._writing}
            for prompt in ready:
                if id(prompt) not in writing:
                    self._slots.doff(prompt.adapter)

    def _score(self, works: dict[Prompt, Work]) -> None:
        answers = [work.answers or () for work in works.values()]
        found = score_trees(self._reader, list(works), answers, next(iter(works.values())).prune_margin)
        self._counts.scored += len(found)
        for work, scored in zip(works.values(), found, strict=True):
            work.done(scored)

    def _enter(self, works: dict[Prompt, Work]) -> None:
        rows = {Row(prompt, work.most, work.matcher, work.endless): work for prompt, work in works.items()}
        self._writer.enter(list(rows))
        self._writing.update(rows)
        self._tell(rows)

    def _step(self) -> None:
        try:
            if not self._writer.step():
                return
        except Exception as error:
            for work in self._writing.values():
                work.fail(error)
            self.drop()
            return
        self._counts.steps += 1
        self._counts.rows_stepped += len(self._writing)
        self._tell(self._writing)

    def _tell(self, rows: dict[Row, Work]) -> None:
        self._counts.tokens_written += len(rows)
        for row, work in rows.items():
            work.tell(row.ids)
