"""Trade-off of quality against cost: the Pareto front, and the cheapest setting that is not significantly worse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from searchlora.eval.comparison import Comparison
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
        and pair.p_corrected < LEVEL
    }
    equal = [
        setting
        for setting in settings
        if setting.name == best or not (setting.name in worse or math.isnan(setting.quality))
    ]
    return best, min(equal, key=lambda one: (one.costs[cost], -comparison.gain(measure, one.quality))).name
