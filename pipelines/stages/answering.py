"""What the stages that answer a task have in common: its records, what is done with its outputs, and who decides."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from searchlora.errors import SearchloraError
from searchlora.inference.metered import Exchange
from searchlora.outputs import InvalidOutput
from searchlora.pipelines.results import INVALID, plain
from searchlora.pipelines.stages.deciding import Decides, is_open, undecided, with_decision
from searchlora.pipelines.stages.stage import Stage, StageSettings
from searchlora.records import Record, SearchContext
from searchlora.task import GenerationTask


class AnsweringSettings(StageSettings):
    """Settings of a stage that answers a task."""

    decides: Decides | None = Field(
        None,
        description="lowest probability of an answer that is acted on, as `{above: 0.93}`, for one label of a closed"
        " set; below it the search stays as it was, or gets the task's fallback, and `undecided` has the probability;"
        " `searchlora tune --risk` fits it, and writes its `origin`",
    )
    only_undecided: bool = Field(
        False,
        description="answer only where no earlier stage of the same task has decided: it was not sure enough, its"
        " answer was invalid, or it was skipped",
    )

    def check_fitted(self, reference: str) -> None:
        if self.decides is not None:
            self.decides.check_fitted(reference)

    def rule_for(self, reference: str | None) -> Decides | None:
        """`decides` with another adapter; None if it was fitted for this stage's own."""
        if self.decides is None or reference == self.adapter_reference or self.decides.fits(reference):
            return self.decides
        return None


class AnsweringStage(Stage):
    """A stage that answers a task for each record of a search; the task updates the search.

    Outputs, including `InvalidOutput`, are stored under `outputs[task name]`, one list per search. The task's fallback
    replaces an invalid output; without a fallback the search is unchanged.
    """

    task: GenerationTask
    decides: Decides | None  # the lowest probability of an answer that is acted on; None: every answer is
    only_undecided: bool

    @abstractmethod
    def ask(self, records: Sequence[Record]) -> list[Any]:
        """The output of each record; `InvalidOutput` where there is no valid one."""

    def __call__(self, searches: Sequence[SearchContext]) -> list[SearchContext]:
        taken = [self.takes(search) for search in searches]
        answered = iter(self._answered([search for search, its in zip(searches, taken, strict=True) if its]))
        return [next(answered) if its else search for search, its in zip(searches, taken, strict=True)]

    def takes(self, search: SearchContext) -> bool:
        return not self.only_undecided or is_open(self.task, search)

    def _answered(self, searches: Sequence[SearchContext]) -> list[SearchContext]:
        records = [self.task.records_from(search) for search in searches]
        flat = [record for of_search in records for record in of_search]
        outputs = iter(self.ask(flat))
        done = [
            with_outputs(self.task, search, of_search, [next(outputs) for _ in of_search])
            for search, of_search in zip(searches, records, strict=True)
        ]
        decided = [with_decision(self.decides, self.task, *states) for states in zip(searches, done, strict=True)]
        return [self.completed(before, after) for before, after in zip(searches, decided, strict=True)]

    def completed(self, before: SearchContext, after: SearchContext) -> SearchContext:
        """The search after the stage, with what else later stages need."""
        del before
        return after

    def tasks(self) -> tuple[GenerationTask, ...]:
        return (self.task,)

    def inputs(self, search: SearchContext) -> Iterator[tuple[str, Any]]:
        """The records of the task."""
        yield "records", plain(self.records(search))

    def trace(
        self, before: SearchContext, after: SearchContext, exchanges: Mapping[str, Sequence[Exchange]]
    ) -> tuple[dict[str, Any], list[str]]:
        """No further keys; whether the stage did not decide, and why outputs are invalid."""
        del exchanges
        flags = ["undecided"] if self._undecided(before, after) else []
        return {}, [*flags, *(f"invalid: {reason}" for reason in self._invalid(before, after))]

    def notes(self, before: SearchContext, after: SearchContext, rank: int | None) -> Iterator[str]:
        """Why outputs are invalid, or not acted on."""
        del rank
        if self.decides is not None and self._undecided(before, after):
            below = f"{undecided(after)[self.task.name]:.6g}, below {self.decides.above:.6g}"
            yield f"{self.label} did not decide: its answer has probability {below}"
        for reason in self._invalid(before, after):
            yield f"an output of {self.label} is invalid: {reason}"

    def _undecided(self, before: SearchContext, after: SearchContext) -> bool:
        return after is not before and self.task.name in undecided(after)

    def _invalid(self, before: SearchContext, after: SearchContext) -> list[str]:
        outputs = after.get("outputs", {}).get(self.task.name, ()) if after is not before else ()
        return list(dict.fromkeys(output.reason for output in outputs if isinstance(output, InvalidOutput)))

    def records(self, search: SearchContext) -> list[Record]:
        """The records of a search; none where it lacks what they need, so that the stage was skipped."""
        try:
            return list(self.task.records_from(search))
        except SearchloraError:
            return []


def with_outputs(
    task: GenerationTask, search: SearchContext, records: Sequence[Record], outputs: Sequence[Any]
) -> SearchContext:
    """A search with a task's outputs in it: kept as they are, and acted on with the fallback where one is invalid."""
    usable = [
        task.fallback(record) if isinstance(output, InvalidOutput) else output
        for record, output in zip(records, outputs, strict=True)
    ]
    changes = task.updates(search, usable) if all(value is not None for value in usable) else {}
    all_outputs = {**search.get("outputs", {}), task.name: list(outputs)}
    # Apart from `outputs`, in which a later stage of the same task replaces those of an earlier one.
    invalid = [(task.name, output.reason) for output in outputs if isinstance(output, InvalidOutput)]
    reasons = {INVALID: (*search.get(INVALID, ()), *invalid)} if invalid else {}
    return {**search, **changes, "outputs": all_outputs, **reasons}
