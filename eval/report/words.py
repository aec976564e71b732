"""What the figures say, in words."""

from __future__ import annotations

from searchlora.eval.compare import Comparison, Pair
from searchlora.eval.tables import interval

#: A difference is called one from this corrected p down.
LEVEL = 0.05


def summary(comparison: Comparison) -> list[str]:
    """One sentence on what was measured, and one per pair of systems that is looked at first."""
    headline = comparison.measures[0]
    leading = comparison.candidate or comparison.baseline or comparison.systems[0]
    own = comparison.row(leading, headline)
    first = (
        f"{comparison.shown(leading)} reaches {headline} {own.value:.3f} {interval(own.low, own.high)} "
        f"over {own.n} rows" + (f" in {comparison.groups} independent groups." if comparison.groups != own.n else ".")
    )
    met = [pair for pair in comparison.comparisons if (pair.a, pair.b) in comparison.met and pair.measure == headline]
    return [first, *(_sentence(pair, comparison.shown(pair.a), comparison.shown(pair.b)) for pair in met)]


def _sentence(pair: Pair, a: str, b: str) -> str:
    said = f"{interval(pair.low, pair.high, '+')}, {chance(pair.p_corrected)}"
    if pair.p_corrected > LEVEL:
        return (
            f"{a} is not shown to differ from {b}: the difference in {pair.measure} is {pair.difference:+.3f} {said}."
        )
    verb = "beats" if pair.difference > 0 else "falls behind"
    low, high = sorted((pair.low, pair.high), key=abs)
    # An interval across 0 keeps its signs; any other is told as the size of the difference.
    size = interval(abs(low), abs(high)) if low * high > 0 else interval(pair.low, pair.high, "+")
    return f"{a} {verb} {b} by {abs(pair.difference):.3f} {pair.measure} {size}, {chance(pair.p_corrected)}."


def chance(p: float) -> str:
    """`p < 0.001` or `p = 0.032`, not broken over two lines."""
    return (
        "p\N{NO-BREAK SPACE}<\N{NO-BREAK SPACE}0.001" if p < 0.001 else f"p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{p:.3f}"
    )
