"""Guardrails: what recorded searches say about two versions of an adapter that share the users.

Each guardrail is a value between 0 and 1 of a search. Its mean over the searches of a session is one value, since a
user's searches depend on each other, and sessions are independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from searchlora.errors import DataError
from searchlora.eval.sequential import Sum, difference_bounds
from searchlora.events.export import Search, chosen, session_of
from searchlora.events.interleaving import INTERLEAVED
from searchlora.events.log import Feedback

#: Key of an event that names the versions that could not be loaded, so that another one answered.
UNSERVED = "unserved"

#: The quantile of the incumbent's milliseconds above which a search is slow.
SLOW_QUANTILE = 0.95


@dataclass(frozen=True)
class SearchFacts:
    """What the guardrails of a search depend on.

    Attributes:
        event: The search.
        feedback: What its user did.
        stage: The stage with the adapter; None if the version could not be loaded.
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
    "unserved": Guardrail("searches without the version, which cannot be loaded,", lambda facts: facts.stage is None),
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
        candidate, incumbent: Sums over sessions.
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
    sessions: dict[str, dict[str, list[SearchFacts]]] = {candidate: {}, incumbent: {}}
    for event, feedback in searches:
        if event.get("slots") or INTERLEAVED in event:
            continue
        for version, by_session in sessions.items():
            stage = next((each for each in event["stages"] if each.get("adapter") == version), None)
            if version == candidate and version in event.get(UNSERVED, ()):
                facts = SearchFacts(event, feedback, None, slow_ms)
            elif stage is not None:
                facts = SearchFacts(event, feedback, stage, slow_ms)
            else:
                continue
            by_session.setdefault(session_of(event), []).append(facts)
            break
    found = []
    for name, margin in margins.items():
        one, other = (_sum(GUARDRAILS[name], sessions[version].values()) for version in (candidate, incumbent))
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
        if any(stage.get("adapter") == version for stage in event["stages"])
    ]
    if not milliseconds:
        raise DataError(f"{version} has answered no recorded search", fix="Serve it with --events for a while.")
    return float(np.quantile(milliseconds, SLOW_QUANTILE))


def _sum(rail: Guardrail, sessions: Iterable[Sequence[SearchFacts]]) -> Sum:
    values = [sum(map(float, map(rail.of, facts))) / len(facts) for facts in sessions]
    return Sum(sum(values), len(values))
