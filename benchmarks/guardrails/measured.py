"""A stage with a guard beside the same stage without it, on the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from searchlora.eval.comparison import compare
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.figures import PairedComparison

WITH, WITHOUT = "guard", "without"


@dataclass(frozen=True)
class Guarded:
    """One measure of a guard.

    Attributes:
        guard: The key of the stage, with its value.
        data, stage: What it was measured on.
        acts: Share of the rows on which it acts.
        saves: What it saves, in words.
        without: The measure without the guard.
        pair: With the guard minus without it.
    """

    guard: str
    data: str
    stage: str
    acts: float
    saves: str
    without: float
    pair: PairedComparison

    @property
    def system(self) -> str:
        """The name in the rows of the results file."""
        return f"{self.guard}, {self.data}, {self.stage}"


def guarded(
    guard: str,
    data: str,
    stage: str,
    acts: float,
    saves: str,
    evaluations: tuple[Evaluation, Evaluation],
    measures: Sequence[str],
) -> Iterator[Guarded]:
    """A line of the table for each measure.

    Args:
        evaluations: With the guard, and without it.
    """
    systems = {
        name: Evaluation(
            measures[0],
            {key: each.values[key] for key in measures if key in each.values},
            each.clusters,
            aggregates={key: each.aggregates[key] for key in measures if key in each.aggregates},
            less_is_better=each.less_is_better,
        )
        for name, each in zip((WITH, WITHOUT), evaluations, strict=True)
    }
    comparison = compare(systems, candidate=WITH, measures=measures)
    for pair in comparison.comparisons:
        yield Guarded(guard, data, stage, acts, saves, systems[WITHOUT].figures()[pair.measure], pair)
