"""Deciding alone: a stage acts on an answer only where its probability is high enough."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from searchlora.errors import PipelineError
from searchlora.outputs import ClosedSet, Continued, Graded, InvalidOutput
from searchlora.pipelines.stages.stage import Settings
from searchlora.records import Record, SearchContext
from searchlora.task import GenerationTask

#: Field of a search: task -> the probability of its answer, where that is too low to act on.
UNDECIDED = "undecided"


class Decides(Settings):
    """`decides: {above: 0.93}`: the lowest probability of an answer that the stage acts on."""

    above: float = Field(ge=0, le=1, description="lowest probability of an answer that is acted on")
    origin: dict[str, Any] = Field(
        default_factory=dict, description="how `searchlora tune --risk` fitted it: adapter, dataset, risk, coverage"
    )

    def check(self, adapter: str | None, task: GenerationTask, *, constrained: bool) -> None:
        """Check that the rule fits its stage."""
        check_decides(task, f"{adapter or 'zero-shot'}, decides", constrained=constrained)
        self.check_fitted(adapter)

    def fits(self, adapter: str | None) -> bool:
        """Whether the rule holds for a version; one that was written by hand holds for any."""
        return self.origin.get("adapter", adapter) == adapter

    def check_fitted(self, adapter: str | None) -> None:
        """Raise `PipelineError` for a version that the rule was not fitted for."""
        if not self.fits(adapter):
            raise PipelineError(
                f"was fitted for {self.origin['adapter']}",
                where=f"{adapter or 'zero-shot'}, decides",
                fix="Fit it again: `searchlora tune --risk`, or leave it out.",
            )


def check_decides(task: GenerationTask, where: str, *, constrained: bool = True) -> None:
    """Raise `PipelineError` unless each search has one answer, of a closed set, with its probability."""
    if not task.reads_as_declared:
        raise PipelineError(f"the task '{task.name}' has several answers for a search", where=where)
    if not (constrained and has_probability(task)):
        raise PipelineError(
            f"the answers of the task '{task.name}' have no probability here",
            where=where,
            fix="Only one label of a closed set has one, with constrained: true.",
        )


def has_probability(task: GenerationTask) -> bool:
    """Whether an answer has a probability as a whole: one label of a closed set."""
    spec = task.output(task.examples[0])
    return isinstance(spec, ClosedSet) and not isinstance(spec, Continued)


def confidence(task: GenerationTask, record: Record, output: Any) -> float | None:
    """The probability of an answer; None for an output without probabilities.

    It is that of the answer after tuning: below an out-of-scope threshold, that of the out-of-scope label.
    """
    spec, probabilities = task.output(record), getattr(output, "probabilities", None)
    if not probabilities:
        return None
    values = list(spec.scale.values()) if isinstance(spec, Graded) else list(spec.choices or ())
    return float(math.fsum(share for value, share in zip(values, probabilities, strict=True) if value == output.value))


def undecided(search: SearchContext) -> Mapping[str, float]:
    """Task -> the probability of its answer, where no stage was sure enough to act on it."""
    found = search.get(UNDECIDED)
    return found if isinstance(found, Mapping) else {}


def is_open(task: GenerationTask, search: SearchContext) -> bool:
    """Whether no stage has decided for a task: none answered, or was sure enough, or its answer was invalid."""
    outputs = search.get("outputs", {}).get(task.name)
    return not outputs or task.name in undecided(search) or any(isinstance(each, InvalidOutput) for each in outputs)


def with_decision(
    decides: Decides | None, task: GenerationTask, before: SearchContext, after: SearchContext
) -> SearchContext:
    """A search after a stage that answered, or with the fallback of the task where the stage may not decide.

    The output is kept among `outputs` in either case. An invalid one is not undecided, but what was undecided stays so.
    """
    outputs = after["outputs"][task.name]
    if any(isinstance(output, InvalidOutput) for output in outputs):
        return after
    left = {name: probability for name, probability in undecided(before).items() if name != task.name}
    if decides is not None:
        (record,) = task.records_from(before)
        probability = confidence(task, record, outputs[0])
        if probability is not None and probability < decides.above:
            left[task.name] = probability
            fallback = task.fallback(record)
            changes = {} if fallback is None else task.updates(before, [fallback])
            after = {**before, **changes, "outputs": after["outputs"]}
    rest = {key: value for key, value in after.items() if key != UNDECIDED}
    return {**rest, UNDECIDED: left} if left else rest
