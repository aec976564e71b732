"""What the figures say, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from searchlora.eval.comparison import Comparison, Pair
from searchlora.eval.formatting import interval, number

#: A difference is called one from this corrected p down.
LEVEL = 0.05

#: More pairs than this are told together, and of these only the names of so many systems.
_PAIRS = 4


def summary(comparison: Comparison) -> list[str]:
    """What was measured, what the pairs that are looked at first say, and how much of it is judged."""
    headline = comparison.measures[0]
    leading = comparison.candidate or comparison.baseline or comparison.systems[0]
    own = comparison.row(leading, headline)
    first = (
        f"{comparison.label(leading)} reaches {headline} {number(own.value)} {interval(own.low, own.high)} "
        f"over {own.n} rows" + (f" in {comparison.groups} independent groups." if comparison.groups != own.n else ".")
    )
    met = [
        pair
        for pair in comparison.comparisons
        if (pair.a, pair.b) in comparison.main_pairs and pair.measure == headline
    ]
    if len(met) <= _PAIRS:
        told = met
    else:
        told = [pair for pair in met if comparison.candidate is not None and pair.b == comparison.baseline]
    return [
        first,
        *(_sentence(comparison, pair) for pair in told),
        *(_together(comparison, met) if len(met) > _PAIRS else ()),
        *_judged(comparison),
    ]


def _sentence(comparison: Comparison, pair: Pair) -> str:
    a, b = comparison.label(pair.a), comparison.label(pair.b)
    if math.isnan(pair.difference):
        return f"{a} and {b} cannot be compared: there is no {pair.measure} of one of them."
    said = f"{interval(pair.low, pair.high, '+')}, {chance(pair.p_corrected)}"
    if pair.p_corrected > LEVEL:
        return (
            f"{a} is not shown to differ from {b}: the difference in {pair.measure} is {pair.difference:+.3f} {said}."
        )
    verb = "beats" if comparison.gain(pair.measure, pair.difference) > 0 else "falls behind"
    low, high = sorted((pair.low, pair.high), key=abs)
    # An interval across 0 keeps its signs; any other is told as the size of the difference.
    size = interval(abs(low), abs(high)) if low * high > 0 else interval(pair.low, pair.high, "+")
    return f"{a} {verb} {b} by {abs(pair.difference):.3f} {pair.measure} {size}, {chance(pair.p_corrected)}."


def _together(comparison: Comparison, met: Sequence[Pair]) -> Iterator[str]:
    """One sentence for those that win, one for those that lose, one for the rest."""
    measure = met[0].measure
    shown = [pair for pair in met if pair.p_corrected <= LEVEL]
    won, lost = ([pair for pair in shown if comparison.gain(measure, pair.difference) * sign > 0] for sign in (1, -1))
    rest = len(met) - len(shown)
    if comparison.candidate is not None:
        name = comparison.label(comparison.candidate)
        yield f"In {measure}, {name} beats {_counted(comparison, [pair.b for pair in won], len(met))}."
        if lost:
            yield f"It falls behind {_counted(comparison, [pair.b for pair in lost], len(met))}."
        if rest:
            yield f"From {rest} of {len(met)} it is not shown to differ."
        return
    name = comparison.label(met[0].b)
    yield f"In {measure}, {name} is beaten by {_counted(comparison, [pair.a for pair in won], len(met))}."
    if lost:
        yield f"Behind it: {_counted(comparison, [pair.a for pair in lost], len(met))}."
    if rest:
        yield f"{rest} of {len(met)} are not shown to differ from it."


def _counted(comparison: Comparison, systems: Sequence[str], of: int) -> str:
    if not systems:
        return f"none of {of} systems"
    names = [comparison.label(system) for system in systems[:_PAIRS]]
    more = [f"{len(systems) - _PAIRS} more"] if len(systems) > _PAIRS else []
    return f"{len(systems)} of {of} systems ({', '.join([*names, *more])})"


def _judged(comparison: Comparison) -> Iterator[str]:
    """How far the share of judged documents differs between systems, which favours some of them."""
    rows = [row for row in comparison.unjudged if row.measure.startswith("Judged@")]
    rows = [row for row in rows if row.measure == rows[0].measure]
    if not rows or min(row.value for row in rows) == 1:
        return
    least, most = (find(rows, key=lambda row: row.value) for find in (min, max))
    cutoff = least.measure.removeprefix("Judged@")
    told = f"Of the first {cutoff} documents, {least.value:.0%} are judged for {comparison.label(least.system)}"
    yield told + (f" and {most.value:.0%} for {comparison.label(most.system)}." if most.system != least.system else ".")


def chance(p: float) -> str:
    """`p < 0.001` or `p = 0.032`, not broken over two lines."""
    return (
        "p\N{NO-BREAK SPACE}<\N{NO-BREAK SPACE}0.001" if p < 0.001 else f"p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{p:.3f}"
    )
