"""Figures of recorded searches: how often users choose a hit, and what each stage took and failed at."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from searchlora.eval.intervals import proportion
from searchlora.events.export import OUTCOME, UNSERVED, Search, chosen, is_answered, user_of

#: Flags of a stage that are counted, without their reasons.
_FLAGS = frozenset({"invalid", "skipped", "undecided", "cached"})


@dataclass(frozen=True)
class Ratio:
    """A ratio of searches with its 95% interval, in which the searches of one user count as clustered."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class StageFigures:
    """What a stage, with the version of its adapter, did in all searches."""

    n: int
    p50_ms: float
    p95_ms: float
    flags: Mapping[str, int]  # `invalid`, `skipped`, `undecided` or `cached` -> number of searches


@dataclass(frozen=True)
class EventSummary:
    """Figures of the searches of one pipeline."""

    searches: int
    users: int
    outcomes: Mapping[str, int]
    unserved: Mapping[str, Mapping[str, int]]  # version that failed -> how -> number of searches
    chosen: Ratio
    no_hits: Ratio
    actions: Mapping[str, int]  # action -> number of hits that were shown
    not_shown: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    stages: Mapping[str, StageFigures]  # label, with the version of its adapter -> its figures


def summaries(searches: Iterable[Search]) -> dict[str, EventSummary]:
    """The figures of each pipeline, by name, in the order of their first search.

    Examples:
        >>> event = {"id": "1", "pipeline": "bm25", "hits": ["a"], "stages": [], "milliseconds": 5.0}
        >>> found = summaries([(event, []), ({**event, "id": "2", "hits": []}, [])])["bm25"]
        >>> found.searches, found.no_hits.value, found.p50_ms
        (2, 0.5, 5.0)
    """
    tallies: dict[str, _Tally] = {}
    for event, feedback in searches:
        tallies.setdefault(event["pipeline"], _Tally()).add(event, feedback)
    return {pipeline: tally.summary() for pipeline, tally in tallies.items()}


@dataclass
class _Stage:
    milliseconds: array[float] = field(default_factory=lambda: array("d"))
    flags: Counter[str] = field(default_factory=Counter)


@dataclass
class _Tally:
    """Counts of one pipeline; users are clusters."""

    sizes: Counter[str] = field(default_factory=Counter)
    chosen: Counter[str] = field(default_factory=Counter)
    no_hits: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    not_shown: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    unserved: dict[str, Counter[str]] = field(default_factory=dict)
    milliseconds: array[float] = field(default_factory=lambda: array("d"))
    stages: dict[str, _Stage] = field(default_factory=dict)

    def add(self, event: Mapping[str, Any], feedback: Sequence[Any]) -> None:
        if event.get(OUTCOME, "ok") != "ok":
            self.outcomes[event[OUTCOME]] += 1
        for version, how in event.get(UNSERVED, {}).items():
            self.unserved.setdefault(version, Counter())[how] += 1
        if not is_answered(event):
            return
        user, shown = user_of(event), set(event["hits"])
        self.sizes[user] += 1
        self.chosen[user] += bool(chosen(event, feedback))
        self.no_hits[user] += not shown
        for each in feedback:
            if each.document in shown:
                self.actions[each.action] += 1
            else:
                self.not_shown += 1
        self.milliseconds.append(event["milliseconds"])
        for stage in event["stages"]:
            counted = self.stages.setdefault(stage["label"], _Stage())
            counted.milliseconds.append(stage["milliseconds"])
            counted.flags.update(_FLAGS & {flag.partition(":")[0] for flag in stage["flags"]})

    def summary(self) -> EventSummary:
        p50, p95, p99 = np.quantile(self.milliseconds or [float("nan")], [0.5, 0.95, 0.99]).tolist()
        stages = {}
        for label, stage in self.stages.items():
            median, high = np.quantile(stage.milliseconds, [0.5, 0.95]).tolist()
            stages[label] = StageFigures(len(stage.milliseconds), median, high, dict(stage.flags))
        return EventSummary(
            searches=self.sizes.total(),
            users=len(self.sizes),
            outcomes=dict(self.outcomes),
            unserved={version: dict(how) for version, how in self.unserved.items()},
            chosen=self._ratio(self.chosen),
            no_hits=self._ratio(self.no_hits),
            actions=dict(self.actions),
            not_shown=self.not_shown,
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            stages=stages,
        )

    def _ratio(self, hits: Counter[str]) -> Ratio:
        return _ratio(hits, self.sizes)


def went_wrong(event: Mapping[str, Any]) -> bool:
    """Whether a search failed, or a stage of it had an invalid output or was skipped."""
    flags = (flag for stage in event["stages"] for flag in stage["flags"])
    return not is_answered(event) or any(flag.startswith(("invalid", "skipped")) for flag in flags)


def ratio_by_user(values: Iterable[tuple[Mapping[str, Any], bool]]) -> Ratio:
    """The ratio of searches with a value, in which those of a user are clustered."""
    hits, sizes = Counter[str](), Counter[str]()
    for event, value in values:
        user = user_of(event)
        sizes[user] += 1
        hits[user] += value
    return _ratio(hits, sizes)


def _ratio(hits: Counter[str], sizes: Counter[str]) -> Ratio:
    if not sizes:
        return Ratio(float("nan"), float("nan"), float("nan"))
    return Ratio(*proportion(*(np.array([each[user] for user in sizes], float) for each in (hits, sizes))))
