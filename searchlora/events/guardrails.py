"""Guardrails: what recorded searches say about two versions of an adapter that share the users.

Each guardrail is a value between 0 and 1 of a search. Its mean over the searches of a user is one value: these
depend on each other, while users are independent, and were drawn for a version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from searchlora.errors import DataError
from searchlora.eval.sequential import Sum, difference_bounds
from searchlora.events.export import Search, chosen, user_of
from searchlora.events.interleaving import INTERLEAVED
from searchlora.events.log import Feedback

#: Key of an event that names the versions that failed, so that another one answered, or none.
UNSERVED = "unserved"

#: The quantile of the incumbent's milliseconds above which a search is slow.
SLOW_QUANTILE = 0.95


@dataclass(frozen=True)
class SearchFacts:
    """What the guardrails of a search depend on.

    Attributes:
        event: The search.
        feedback: What its user did.
        stage: The stage with the adapter; None if the version failed.
        slow_ms: Milliseconds from which a search is slow.
    """

    event: Mapping[str, Any]
    feedback: Sequence[Feedback]
    stage: Mapping[str, Any] | None
    slow_ms: float

    def has(self, flag: str) -> bool:
        """Whether the stage has a flag."""
        return self.stage is not None and any(each.startswith(flag) for each in self.stage["flags"])


@dataclass(frozen=True)
class Guardrail:
    """A value of a search that a candidate must not worsen.

    Attributes:
        says: What it is, for findings.
        of: The value.
        less_is_better: Whether a rise is a harm.
    """

    says: str
    of: Callable[[SearchFacts], float]
    less_is_better: bool = True


#: Name in a policy -> guardrail.
GUARDRAILS: Mapping[str, Guardrail] = {
    "unserved": Guardrail("searches in which the version failed", lambda facts: facts.stage is None),
    "invalid": Guardrail("invalid outputs", lambda facts: facts.has("invalid")),
    "skipped": Guardrail("skipped stages", lambda facts: facts.has("skipped")),
    "no_hits": Guardrail("searches without hits", lambda facts: not facts.event["hits"]),
    "slow": Guardrail("slow searches", lambda facts: facts.event["milliseconds"] > facts.slow_ms),
    "chosen": Guardrail(
        "searches with a chosen hit", lambda facts: bool(chosen(facts.event, facts.feedback)), less_is_better=False
    ),
}


@dataclass(frozen=True)
class Compared:
    """One guardrail of a candidate and the incumbent.

    Attributes:
        name: Of `GUARDRAILS`.
        candidate, incumbent: Sums over users.
        harm: Mean of the candidate minus that of the incumbent, with the sign that makes a harm positive.
        low, high: Its interval, valid at every look.
        margin: The harm that is accepted.
    """

    name: str
    candidate: Sum
    incumbent: Sum
    harm: float
    low: float
    high: float
    margin: float

    @classmethod
    def of(cls, name: str, candidate: Sum, incumbent: Sum, margin: float, alpha: float) -> Compared:
        """The comparison of two sums, with an interval that ever misses with probability alpha at most."""
        low, high = difference_bounds(candidate, incumbent, alpha)
        harm = candidate.mean - incumbent.mean
        if not GUARDRAILS[name].less_is_better:
            harm, low, high = -harm, -high, -low
        return cls(name, candidate, incumbent, harm, low, high, margin)

    @property
    def is_harmed(self) -> bool:
        """Whether the candidate is worse by more than the margin."""
        return self.low > self.margin

    @property
    def is_safe(self) -> bool:
        """Whether the candidate is not worse by more than the margin."""
        return self.high <= self.margin

    def __str__(self) -> str:
        rail = GUARDRAILS[self.name]
        return (
            f"{rail.says} {self.candidate.mean:.3f} (n = {self.candidate.n}), before {self.incumbent.mean:.3f}"
            f" (n = {self.incumbent.n}): worse by {self.harm:+.3f} ({self.low:+.3f} to {self.high:+.3f}),"
            f" accepted {self.margin:g}"
        )


def compared(
    searches: Iterable[Search],
    candidate: str,
    incumbent: str,
    margins: Mapping[str, float],
    slow_ms: float,
    alpha: float,
) -> list[Compared]:
    """Each guardrail of two versions, `name@3` and `name@2`, over the searches that they answered.

    A search whose client has chosen a version, and one that two pipelines have answered, count for none.

    Args:
        margins: Guardrail -> accepted harm.
        slow_ms: See `SearchFacts`.
        alpha: Probability that the interval of any guardrail ever misses, at most: they share it.
    """
    users: dict[str, dict[str, list[float]]] = {candidate: {}, incumbent: {}}
    rails = [GUARDRAILS[name] for name in margins]
    for event, feedback in searches:
        for version in users if _counts(event) else ():
            stage = next((each for each in event["stages"] if each.get("adapter") == version), None)
            failed = version in event.get(UNSERVED, ())
            if failed or stage is not None:
                facts = SearchFacts(event, feedback, None if failed else stage, slow_ms)
                # Of a user: the number of searches, then the sum of each guardrail.
                sums = users[version].setdefault(user_of(event), [0.0] * (1 + len(rails)))
                sums[0] += 1
                for place, rail in enumerate(rails, 1):
                    sums[place] += float(rail.of(facts))
                break
    found = []
    for place, (name, margin) in enumerate(margins.items(), 1):
        one, other = (_sum(users[version].values(), place) for version in (candidate, incumbent))
        found.append(Compared.of(name, one, other, margin, alpha / len(margins)))
    return found


def slow_from(searches: Iterable[Search], version: str) -> float:
    """The milliseconds above which a search is slow: a quantile of those of a version.

    Raises:
        DataError: if the version has answered no search.
    """
    milliseconds = [
        event["milliseconds"]
        for event, _ in searches
        if _counts(event) and any(stage.get("adapter") == version for stage in event["stages"])
    ]
    if not milliseconds:
        raise DataError(f"{version} has answered no recorded search", fix="Serve it with --events for a while.")
    return float(np.quantile(milliseconds, SLOW_QUANTILE))


def _counts(event: Mapping[str, Any]) -> bool:
    """Whether a search says something about a version: neither its client has chosen one, nor have two answered."""
    return not event.get("slots") and INTERLEAVED not in event


def _sum(users: Iterable[Sequence[float]], place: int) -> Sum:
    values = [sums[place] / sums[0] for sums in users]
    return Sum(min(sum(values), len(values)), len(values))
