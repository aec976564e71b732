"""Deciding alone: an adapter stage acts on an answer only where its probability is high enough."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from searchlora.errors import PipelineError
from searchlora.outputs import ClosedSet, Continued
from searchlora.pipelines.stages.stage import Settings
from searchlora.records import SearchContext
from searchlora.task import GenerationTask

#: Field of a search: task -> the probability of its answer, where that is too low to act on.
UNDECIDED = "undecided"


class Decides(Settings):
    """`decides: {above: 0.93}`: the lowest probability of an answer that the stage acts on."""

    above: float = Field(ge=0, le=1, description="lowest probability of an answer that is acted on")
    origin: dict[str, Any] = Field(
        default_factory=dict, description="how `searchlora tune --risk` fitted it: adapter, dataset, risk, coverage"
    )

    def check(self, adapter: str, task: GenerationTask, *, constrained: bool) -> None:
        """Check that the rule fits the adapter of its stage.

        Raises:
            PipelineError: for a rule that was fitted for another adapter, and for outputs without a probability.
        """
        where = f"{adapter}, decides"
        check_decides(task, where, constrained=constrained)
        fitted = self.origin.get("adapter", adapter)
        if fitted != adapter:
            raise PipelineError(
                f"was fitted for {fitted}", where=where, fix="Fit it again: `searchlora tune --risk`, or leave it out."
            )


def check_decides(task: GenerationTask, where: str, *, constrained: bool = True) -> None:
    """Raise `PipelineError` unless each search has one answer, of a closed set, with its probability."""
    spec = task.output(task.examples[0])
    if not task.reads_as_declared:
        raise PipelineError(f"the task '{task.name}' has several answers for a search", where=where)
    if not (constrained and isinstance(spec, ClosedSet)) or isinstance(spec, Continued):
        raise PipelineError(
            f"the answers of the task '{task.name}' have no probability here",
            where=where,
            fix="Only one label of a closed set has one, with constrained: true.",
        )


def confidence(output: Any) -> float | None:
    """The probability of an answer: that of its likeliest choice; None for an output without probabilities.

    Examples:
        >>> from searchlora.outputs import Label
        >>> confidence(Label("returns", (0.25, 0.75))), confidence(Label("returns"))
        (0.75, None)
    """
    probabilities = getattr(output, "probabilities", None)
    return max(probabilities) if probabilities else None


def with_decision(
    decides: Decides | None, task: GenerationTask, before: SearchContext, after: SearchContext
) -> SearchContext:
    """A search after a stage that answered, or with the fallback of the task where the stage may not decide.

    The output is kept among `outputs` in either case. An invalid one is not undecided: it is counted apart.

    Args:
        decides: None: the stage decides always, so the task is no longer undecided.
    """
    undecided: dict[str, float] = {key: value for key, value in before.get(UNDECIDED, {}).items() if key != task.name}
    if decides is not None:
        (output,) = after["outputs"][task.name]
        probability = confidence(output)
        if probability is not None and probability < decides.above:
            undecided[task.name] = probability
            fallback = task.fallback(task.records_from(before)[0])
            changes = {} if fallback is None else task.updates(before, [fallback])
            after = {**before, **changes, "outputs": after["outputs"]}
    rest = {key: value for key, value in after.items() if key != UNDECIDED}
    return {**rest, UNDECIDED: undecided} if undecided else rest
