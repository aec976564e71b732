"""What candidates made of searches that the live versions answered: figures, and files for a judge and for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from searchlora.errors import DataError
from searchlora.eval.formats import write_run, write_topics
from searchlora.eval.intervals import bootstrap_interval, proportion
from searchlora.eval.rank_overlap import rank_biased_overlap, replaced
from searchlora.eval.text_identity import fingerprint
from searchlora.events.export import session_of
from searchlora.events.summary import Ratio

#: A live search, the versions that searched again, and what they made of it, as `EventLog.shadows` reads them.
Shadow: TypeAlias = tuple[Mapping[str, Any], str, Mapping[str, Any]]

#: Hits among which a change counts.
TOP = 10


@dataclass(frozen=True)
class ShadowFigures:
    """Figures of one candidate over the searches that it searched again; intervals are 95%, by session.

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
    rows: dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for live, candidate, shadow in shadows:
        rows.setdefault(candidate, []).append((live, shadow))
    return {candidate: _figures(pairs) for candidate, pairs in rows.items()}


def write_rankings(shadows: Iterable[Shadow], candidate: str, folder: Path) -> int:
    """Write `topics.jsonl`, `live.trec` and `candidate.trec`, each query once, with the hits of its last search.

    A judge grades them, and people label the pairs that decide (`searchlora judge`, `searchlora grade plan`).

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


def _figures(pairs: list[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> ShadowFigures:
    sessions = [session_of(live) for live, _ in pairs]
    overlaps = [rank_biased_overlap(live["hits"], shadow["hits"]) for live, shadow in pairs]
    low, high = bootstrap_interval(overlaps, sessions)

    def ratio(values: Iterable[bool]) -> Ratio:
        hits: dict[str, float] = dict.fromkeys(sessions, 0.0)
        sizes: dict[str, float] = dict.fromkeys(sessions, 0.0)
        for session, value in zip(sessions, values, strict=True):
            hits[session] += value
            sizes[session] += 1
        return Ratio(*proportion(np.array([*hits.values()]), np.array([*sizes.values()])))

    return ShadowFigures(
        n=len(pairs),
        overlap=Ratio(float(np.mean(overlaps)), low, high),
        changed=ratio(replaced(live["hits"], shadow["hits"], TOP) > 0 for live, shadow in pairs),
        no_hits=ratio(not shadow["hits"] for _, shadow in pairs),
        live_no_hits=ratio(not live["hits"] for live, _ in pairs),
        invalid=ratio(has_failed(shadow) for _, shadow in pairs),
        live_invalid=ratio(has_failed(live) for live, _ in pairs),
        milliseconds=float(np.median([shadow["milliseconds"] for _, shadow in pairs])),
        live_milliseconds=float(np.median([live["milliseconds"] for live, _ in pairs])),
    )
