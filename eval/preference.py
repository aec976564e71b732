"""Which of two interleaved systems users prefer, decided from the credits of their clicks.

Users without an outcome say nothing about the sign. Among the others, B wins with probability 1/2 if users prefer
neither, and a confidence sequence of its share of wins holds at every look.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from searchlora.eval.sequential import Sum, mean_bounds


@dataclass(frozen=True)
class Preference:
    """Which of two systems users prefer.

    Attributes:
        wins_a, wins_b: Users whose first clicks with a credit have more of it for one.
        ties: Users with clicks and no preference, such as one click on a hit that both rank alike.
        searches: Number of interleaved searches.
        low, high: Interval of B's share of the wins, valid at every look.
    """

    wins_a: int
    wins_b: int
    ties: int
    searches: int
    low: float
    high: float

    @property
    def decision(self) -> Literal["A", "B", "open"]:
        """The system that users prefer, or `open`."""
        return "B" if self.low > 0.5 else "A" if self.high < 0.5 else "open"

    @property
    def share(self) -> float:
        """B's share of the wins; 1/2 without any."""
        wins = self.wins_a + self.wins_b
        return self.wins_b / wins if wins else 0.5

    def to_json(self, a: str, b: str) -> dict[str, Any]:
        """The preference between two systems with these names."""
        return {"a": a, "b": b, "decision": self.decision, "share": self.share, **asdict(self)}


def preference(outcomes: Iterable[float], searches: int = 0, alpha: float = 0.05) -> Preference:
    """The preference from the credit of each user with a click.

    Examples:
        >>> preference([1.0] * 20 + [-1.0] * 2 + [0.0] * 5).decision
        'B'
    """
    signs = [(value > 1e-9) - (value < -1e-9) for value in outcomes]
    wins_b, wins_a = signs.count(1), signs.count(-1)
    low, high = mean_bounds(Sum(wins_b, wins_a + wins_b), alpha)
    return Preference(wins_a, wins_b, signs.count(0), searches, low, high)
