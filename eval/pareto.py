"""Trade-off of quality against cost: the Pareto front, and the cheapest system that is not significantly worse."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.formatting import interval, number, p_value
from searchlora.eval.significance import LEVEL


@dataclass(frozen=True)
class Setting:
    """One setting of a sweep with its measured quality.

    Attributes:
        name: Of the system.
        quality: Mean of the headline measure, with its 95% interval.
        costs: Name -> cost, such as parameters trained; smaller is better.
    """

    name: str
    quality: float
    low: float
    high: float
    costs: Mapping[str, float]


def pareto_front(settings: Sequence[Setting], cost: str, *, less_is_better: bool = False) -> tuple[str, ...]:
    """Names of the settings that no other setting beats in quality at the same or a lower cost, cheapest first.

    A setting whose quality is undefined (nan) is left out.

    Examples:
        >>> def made(name, quality, cost):
        ...     return Setting(name, quality, quality, quality, {"parameters": cost})
        >>> pareto_front([made("a", 0.5, 10), made("b", 0.4, 20), made("c", 0.6, 40)], "parameters")
        ('a', 'c')
    """
    sign = -1 if less_is_better else 1
    front, best = [], -math.inf
    known = [setting for setting in settings if not math.isnan(setting.quality)]
    for setting in sorted(known, key=lambda setting: (setting.costs[cost], -sign * setting.quality)):
        if sign * setting.quality > best:
            front.append(setting.name)
            best = sign * setting.quality
    return tuple(front)


def cheapest_equal(settings: Sequence[Setting], comparison: Comparison, cost: str) -> tuple[str, str]:
    """The best setting, the comparison's candidate, and the cheapest one that is not significantly below it.

    They are the same where every cheaper setting is significantly worse. A setting whose quality is undefined (nan)
    was not tested, so it is not the cheapest.
    """
    measure, best = comparison.measures[0], str(comparison.candidate)
    worse = {
        pair.b
        for pair in comparison.comparisons
        if (pair.a, pair.measure) == (best, measure)
        and comparison.gain(measure, pair.difference) > 0
        and pair.p_corrected <= LEVEL
    }
    equal = [
        setting
        for setting in settings
        if setting.name == best or not (setting.name in worse or math.isnan(setting.quality))
    ]
    return best, min(equal, key=lambda one: (one.costs[cost], -comparison.gain(measure, one.quality))).name


def cheapest_system(
    comparison: Comparison,
    systems: Mapping[str, Evaluation],
    *,
    cost: str = "ms per query",
    free: Collection[str] = (),
    without: Collection[str] = (),
) -> str | None:
    """A sentence that names the cheapest system that is not significantly worse than the best one.

    Args:
        comparison: Of the systems; its headline says which one is best.
        cost: A key of `Evaluation.costs`.
        free: Systems without this cost that count as free, such as rules. Others without it are left out, since it was
            not measured on this machine.
        without: Systems that nobody can use, such as the expected outputs.

    Returns:
        None for fewer than two systems, or where no system has this cost.

    Examples:
        >>> rows = {f"q{n}": float(n % 2) for n in range(60)}
        >>> def answering(values, **costs):
        ...     return Evaluation("accuracy", {"accuracy": values}, clusters={}, costs=costs)
        >>> systems = {
        ...     "rule": answering(dict.fromkeys(rows, 0.0)),
        ...     "encoder": answering({**rows, "q1": 0.0}, ms=4.1),
        ...     "LLM": answering(rows, ms=203.0),
        ... }
        >>> compared = compare(systems, candidate="LLM")
        >>> cheapest_system(compared, systems, cost="ms", free=["rule"])  # doctest: +NORMALIZE_WHITESPACE
        'encoder (accuracy 0.483, 4.1 ms) is the cheapest system that is not significantly worse than the best,
        LLM (0.500, 203 ms): -0.017 (-0.117 to -0.000), n = 60, p 1.000.'
    """
    measure = comparison.measures[0]
    known = [
        row
        for row in comparison.rows
        if row.measure == measure
        and row.system not in without
        and not math.isnan(row.value)
        and (row.system in free or cost in systems[row.system].costs)
    ]
    usable = {row.system: systems[row.system] for row in known}
    if len(usable) < 2 or not any(cost in system.costs for system in usable.values()):
        return None
    best = max(known, key=lambda row: comparison.gain(measure, row.value)).system
    if best != comparison.candidate:
        comparison = compare(usable, candidate=best, measures=(measure,))
    settings = [
        Setting(row.system, row.value, row.low, row.high, {cost: usable[row.system].costs.get(cost, 0.0)})
        for row in known
    ]
    _, cheapest = cheapest_equal(settings, comparison, cost)

    def described(name: str, prefix: str = "") -> str:
        price = f", {number(usable[name].costs[cost], '.3g')} {cost}" if cost in usable[name].costs else ""
        return f"{name} ({prefix}{number(comparison.row(name, measure).value)}{price})"

    if cheapest == best:
        price = {setting.name: setting.costs[cost] for setting in settings}
        is_cheapest = price[best] == min(price.values())
        why = "no system is cheaper" if is_cheapest else "each cheaper one is significantly worse"
        return f"{described(best, f'{measure} ')} is the best system; {why}."
    pair = comparison.pair(best, cheapest, measure)
    return (
        f"{described(cheapest, f'{measure} ')} is the cheapest system that is not significantly worse than the best, "
        f"{described(best)}: {-pair.difference:+.3f} {interval(-pair.high, -pair.low, '+')}, n = {pair.n}, "
        f"p {p_value(pair.p_corrected)}."
    )
