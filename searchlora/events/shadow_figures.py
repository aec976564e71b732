"""What candidates made of searches that the live versions answered: figures, and files for a judge and for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from searchlora.errors import DataError
from searchlora.eval.formats import write_run, write_topics
from searchlora.eval.intervals import bootstrap_interval, proportion
from searchlora.eval.rank_overlap import TOP, rank_biased_overlap, replaced
from searchlora.eval.text_identity import fingerprint
from searchlora.events.export import user_of
from searchlora.events.summary import Ratio

#: A live search, the versions that searched again, and what they made of it, as `EventLog.shadows` reads them.
Shadow: TypeAlias = tuple[Mapping[str, Any], str, Mapping[str, Any]]


@dataclass(frozen=True)
class ShadowFigures:
    """Figures of one candidate over the searches that it searched again; intervals are 95%, by user.

    Attributes:
        n: Number of searches.
        overlap: Mean rank-biased overlap of its hits and the live ones, as `Ratio`.
        changed: Share of the searches with another hit among the first `TOP`.
        no_hits, live_no_hits: Share without a hit.
        invalid, live_invalid: Share in which a stage had an invalid output or was skipped.
        milliseconds, live_milliseconds: Medians. A shadow search runs on an idle server, a live one beside others.
    """

    n: int
    overlap: Ratio
    changed: Ratio
    no_hits: Ratio
    live_no_hits: Ratio
    invalid: Ratio
    live_invalid: Ratio
    milliseconds: float
    live_milliseconds: float


def shadow_figures(shadows: Iterable[Shadow]) -> dict[str, ShadowFigures]:
    """The figures of each candidate, by its versions.

    Examples:
        >>> live = {"id": "1", "hits": ["a", "b"], "stages": [], "milliseconds": 5.0}
        >>> found = shadow_figures([(live, "rewriter@3", {**live, "hits": ["a", "c"]})])["rewriter@3"]
        >>> found.n, found.changed.value, round(found.overlap.value, 2)
        (1, 1.0, 0.55)
    """
    rows: dict[str, list[_Row]] = {}
    for live, candidate, shadow in shadows:
        rows.setdefault(candidate, []).append(_Row.of(live, shadow))
    return {candidate: _figures(of_candidate) for candidate, of_candidate in rows.items()}


def write_rankings(shadows: Iterable[Shadow], candidate: str, folder: Path) -> int:
    """Write `topics.jsonl`, `live.trec` and `candidate.trec`, each query once, with the hits of its last search.

    A judge or people grade them (`searchlora judge`, `searchlora grade serve`).

    Returns:
        The number of topics.

    Raises:
        DataError: if the candidate has no search; if a file cannot be written.
    """
    topics: dict[str, dict[str, str | float]] = {}
    live_run: dict[str, dict[str, float]] = {}
    run: dict[str, dict[str, float]] = {}
    for live, versions, shadow in shadows:
        if versions != candidate:
            continue
        topic = f"{fingerprint(live['query']):016x}"
        topics[topic] = {"query": live["query"]}
        live_run[topic], run[topic] = _scores(live["hits"]), _scores(shadow["hits"])
    if not topics:
        raise DataError(f"there is no shadow search of {candidate}")
    folder.mkdir(parents=True, exist_ok=True)
    write_topics(folder / "topics.jsonl", topics)
    write_run(folder / "live.trec", live_run, "live")
    write_run(folder / "candidate.trec", run, candidate.replace(" ", ""))
    return len(topics)


def has_failed(event: Mapping[str, Any]) -> bool:
    """Whether a stage of a search had an invalid output, or was skipped."""
    return any(flag.startswith(("invalid", "skipped")) for stage in event["stages"] for flag in stage["flags"])


def _scores(hits: list[str]) -> dict[str, float]:
    """Scores in the order of hits, whose own scores are not recorded."""
    return {document: 1 / rank for rank, document in enumerate(hits, 1)}


class _Row(NamedTuple):
    """What the figures read of one search, so that the searches themselves are not kept."""

    user: str
    overlap: float
    changed: bool
    no_hits: bool
    live_no_hits: bool
    failed: bool
    live_failed: bool
    milliseconds: float
    live_milliseconds: float

    @classmethod
    def of(cls, live: Mapping[str, Any], shadow: Mapping[str, Any]) -> _Row:
        return cls(
            user_of(live),
            rank_biased_overlap(live["hits"], shadow["hits"]),
            replaced(live["hits"], shadow["hits"], TOP) > 0,
            not shadow["hits"],
            not live["hits"],
            has_failed(shadow),
            has_failed(live),
            shadow["milliseconds"],
            live["milliseconds"],
        )


def _figures(rows: Sequence[_Row]) -> ShadowFigures:
    users = [row.user for row in rows]
    overlaps = [row.overlap for row in rows]
    low, high = bootstrap_interval(overlaps, users)

    def ratio(values: Iterable[bool]) -> Ratio:
        hits: dict[str, float] = dict.fromkeys(users, 0.0)
        sizes: dict[str, float] = dict.fromkeys(users, 0.0)
        for user, value in zip(users, values, strict=True):
            hits[user] += value
            sizes[user] += 1
        return Ratio(*proportion(np.array([*hits.values()]), np.array([*sizes.values()])))

    return ShadowFigures(
        n=len(rows),
        overlap=Ratio(float(np.mean(overlaps)), low, high),
        changed=ratio(row.changed for row in rows),
        no_hits=ratio(row.no_hits for row in rows),
        live_no_hits=ratio(row.live_no_hits for row in rows),
        invalid=ratio(row.failed for row in rows),
        live_invalid=ratio(row.live_failed for row in rows),
        milliseconds=float(np.median([row.milliseconds for row in rows])),
        live_milliseconds=float(np.median([row.live_milliseconds for row in rows])),
    )
