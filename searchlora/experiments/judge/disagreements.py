"""Pairs on which a judge and people disagree, largest difference first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from searchlora.outputs import Grade


@dataclass(frozen=True)
class Disagreement:
    """A pair with two grades.

    Attributes:
        human: The grade that people gave.
        judge: The grade of the judge.
        probabilities: (grade, probability) for each grade of the judge's scale; empty if they were not scored.
        reason: The judge's, if it gives one.
    """

    topic: str
    document: str
    human: int
    judge: int
    probabilities: tuple[tuple[int, float], ...] = ()
    reason: str | None = None

    @property
    def difference(self) -> int:
        """The judge's grade minus that of people."""
        return self.judge - self.human

    @property
    def expected(self) -> float:
        """The mean grade under the judge's probabilities; its grade without them."""
        if not self.probabilities:
            return float(self.judge)
        return math.fsum(grade * share for grade, share in self.probabilities)


def disagreements(graded: Iterable[tuple[str, str, int, Grade]], scale: Sequence[int]) -> tuple[Disagreement, ...]:
    """The pairs whose grades differ: by the difference, then those whose expected grade is farther from the human one.

    Args:
        graded: Topic, document, the grade that people gave, and the judge's output.
        scale: The judge's grades, in the order of its probabilities.

    Examples:
        >>> sure, unsure = Grade(0, (0.9, 0.1)), Grade(0, (0.6, 0.4))
        >>> found = disagreements([("q1", "d1", 1, unsure), ("q1", "d2", 1, sure), ("q1", "d3", 0, sure)], (0, 1))
        >>> [(each.document, each.difference, each.expected) for each in found]
        [('d2', -1, 0.1), ('d1', -1, 0.4)]
    """
    differing = [
        Disagreement(
            topic,
            document,
            human,
            output.value,
            tuple(zip(scale, output.probabilities, strict=True)) if output.probabilities else (),
            output.reason,
        )
        for topic, document, human, output in graded
        if output.value != human
    ]
    return tuple(
        sorted(
            differing,
            key=lambda each: (-abs(each.difference), -abs(each.expected - each.human), each.topic, each.document),
        )
    )
