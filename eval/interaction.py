"""Interaction of two parts of a system: whether each brings more, or less, where the other one works too.

Four systems form a factorial design of two factors at two levels. What the first part brings is the difference that
leaving it out makes, once where the second part works and once where it does not. The interaction is the difference of
these two differences, per topic:

    (both - without the first) - (without the second - without both)

It does not depend on which part is called the first. Above 0 the parts help each other; below 0 they overlap: one does
part of what the other does.

Sources: Box, Hunter and Hunter, Statistics for Experimenters (2nd edition, 2005), chapter 5, whose interaction effect
is half of this contrast; in retrieval, Ferro and Silvello, "A General Linear Mixed Models Approach to Study System
Component Effects" (SIGIR 2016). Interval and test are those of every paired difference (`significance`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from searchlora.errors import UsageError
from searchlora.eval.significance import LEVEL, correct, disagreement_note, paired_differences


@dataclass(frozen=True)
class Interaction:
    """The interaction of two parts in one measure, over n topics.

    Attributes:
        a, b: The parts.
        without_a, without_b, without_both: By how much the measure falls on average without them (above 0: they bring
            something).
        interaction: `without_a` minus what the first part brings where the second is left out.
        low, high: Its 95% interval; nan with a single cluster.
        p: Two-sided p of the randomisation test.
        p_corrected: p corrected over all interactions that were computed together.
    """

    a: str
    b: str
    measure: str
    without_a: float
    without_b: float
    without_both: float
    interaction: float
    low: float
    high: float
    p: float
    p_corrected: float
    n: int

    @property
    def reading(self) -> str:
        """The interaction in words."""
        if not self.p_corrected <= LEVEL:
            return "not shown to interact"
        return "help each other" if self.interaction > 0 else "overlap"


@dataclass(frozen=True)
class Factorial:
    """The values per topic of the four systems behind an interaction: topic -> value."""

    both: Mapping[str, float]
    without_a: Mapping[str, float]
    without_b: Mapping[str, float]
    neither: Mapping[str, float]

    def shared(self) -> list[str]:
        """The topics that all four systems have, in the order of the first."""
        others = (self.without_a, self.without_b, self.neither)
        return [topic for topic in self.both if all(topic in other for other in others)]


def interaction_disagreements(found: Sequence[Interaction]) -> str:
    """Which rules where the interval and the corrected p of an interaction disagree; empty where they agree."""
    return disagreement_note((f"{pair.a} and {pair.b}", pair.low, pair.high, pair.p_corrected) for pair in found)


def interactions(
    designs: Mapping[tuple[str, str], Factorial],
    measure: str,
    clusters: Mapping[str, str] | None = None,
    *,
    less_is_better: bool = False,
    correction: str = "holm",
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[Interaction, ...]:
    """The interaction of each pair of parts, with an interval, and p corrected over all of them.

    Args:
        designs: (part, part) -> the values of the four systems.
        measure: Name of the measure.
        clusters: Topic -> its cluster; a topic without one is its own cluster.
        less_is_better: Whether smaller values are better; differences are then turned, so that above 0 is a gain.
        correction: `holm` or `bh`.

    Raises:
        UsageError: if the four systems of a pair share no topic.

    Examples:
        >>> topics = ["q1", "q2", "q3", "q4", "q5", "q6"]
        >>> def values(*numbers): return dict(zip(topics, numbers))
        >>> design = Factorial(
        ...     both=values(0.9, 0.8, 0.7, 0.9, 0.8, 0.7),
        ...     without_a=values(0.5, 0.5, 0.4, 0.5, 0.4, 0.4),
        ...     without_b=values(0.5, 0.4, 0.4, 0.6, 0.5, 0.3),
        ...     neither=values(0.5, 0.4, 0.4, 0.5, 0.4, 0.3),
        ... )
        >>> (found,) = interactions({("rewriter", "judge"): design}, "nDCG@10")
        >>> round(found.without_a, 2), round(found.interaction, 2), found.low > 0
        (0.35, 0.32, True)
    """
    found = []
    for (a, b), design in designs.items():
        topics = design.shared()
        if not topics:
            raise UsageError(f"the four systems of {a} and {b} share no topic")
        cells = [design.both, design.without_a, design.without_b, design.neither]
        both, without_a, without_b, neither = np.array([[cell[topic] for topic in topics] for cell in cells])
        sign = -1.0 if less_is_better else 1.0
        contrast = sign * (both - without_a - without_b + neither)
        groups = [(clusters or {}).get(topic, topic) for topic in topics]
        (tested,) = paired_differences(contrast[:, None], groups, resamples=resamples, seed=seed)
        lost_a, lost_b, lost_both = (float(sign * (both - other).mean()) for other in (without_a, without_b, neither))
        found.append(
            Interaction(
                a=a,
                b=b,
                measure=measure,
                without_a=lost_a,
                without_b=lost_b,
                without_both=lost_both,
                interaction=tested.difference,
                low=tested.low,
                high=tested.high,
                p=tested.p,
                p_corrected=tested.p,
                n=len(topics),
            )
        )
    corrected = correct([pair.p for pair in found], correction)
    return tuple(replace(pair, p_corrected=p) for pair, p in zip(found, corrected, strict=True))
