"""Figures of shadow searches: what a candidate made of searches that the live version answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from searchlora.events.summary import Ratio, ratio_by_user, went_wrong

#: Hits among which a change counts.
TOP = 10

#: A live search, the versions that searched again, and what they made of it, as `EventLog.shadows` reads them.
Shadow: TypeAlias = tuple[Mapping[str, Any], str, Mapping[str, Any]]


@dataclass(frozen=True)
class ShadowFigures:
    """Figures of one candidate over the searches that it searched again."""

    n: int
    failed: Ratio
    live_failed: Ratio
    changed: Ratio
    milliseconds: float
    live_milliseconds: float


def shadow_figures(shadows: Iterable[Shadow]) -> dict[str, ShadowFigures]:
    """The figures of each candidate, by its versions.

    Examples:
        >>> live = {"id": "1", "hits": ["a", "b"], "stages": [], "milliseconds": 5.0}
        >>> found = shadow_figures([(live, "rewriter@3", {**live, "hits": ["a", "c"]})])["rewriter@3"]
        >>> found.n, found.changed.value, found.failed.value
        (1, 1.0, 0.0)
    """
    by_candidate: dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for live, candidate, shadow in shadows:
        by_candidate.setdefault(candidate, []).append((live, shadow))
    return {candidate: _figures(pairs) for candidate, pairs in by_candidate.items()}


def differs(before: Sequence[str], after: Sequence[str]) -> bool:
    """Whether the first `TOP` hits are not the same documents, in whatever order."""
    return set(before[:TOP]) != set(after[:TOP])


def _figures(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> ShadowFigures:
    return ShadowFigures(
        n=len(pairs),
        failed=ratio_by_user((live, went_wrong(shadow)) for live, shadow in pairs),
        live_failed=ratio_by_user((live, went_wrong(live)) for live, _ in pairs),
        changed=ratio_by_user((live, differs(live["hits"], shadow["hits"])) for live, shadow in pairs),
        milliseconds=float(np.median([shadow["milliseconds"] for _, shadow in pairs])),
        live_milliseconds=float(np.median([live["milliseconds"] for live, _ in pairs])),
    )
