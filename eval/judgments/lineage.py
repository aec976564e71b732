"""Law 6, no judge grades itself: whether the judge also works in the systems, or was trained on the topics.

A reference is `name@3` for an adapter and `base NAME` for a base model at work without one: asked zero-shot, or an
encoder that searches. Two references belong together when their names are the same, whatever the version: versions of
one name are made for one task, mostly from the same data, and a grader that changed a little would still be grading
itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from searchlora.errors import UsageError, some
from searchlora.eval.judgments.card import JudgmentsCard, read_run_card
from searchlora.eval.same_text import normalised


@dataclass(frozen=True)
class RunLineage:
    """Who works in a system: its adapters, all their ancestors, and its bare encoders (`RunCard.lineage`)."""

    references: tuple[str, ...]


def read_lineage(run: str | Path) -> RunLineage | None:
    """Who works in a run, by the card beside it; None where it has none. Raises `DataError` as `read_run_card`."""
    card = read_run_card(run)
    return RunLineage(card.lineage) if card is not None else None


def query_hash(text: str) -> str:
    """16 hex digits of the sha256 of a query, its case, punctuation and number of blanks left out (`normalised`)."""
    return hashlib.sha256(normalised(text).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def circular(
    judgments: JudgmentsCard | None, systems: Mapping[str, RunLineage | None], queries: Mapping[str, str]
) -> dict[str, str]:
    """System -> why its figures would be circular; empty where nothing is known against them.

    Args:
        judgments: The card of the qrels; None (unknown source, treated as human) is never circular.
        systems: name -> who works in it; None where that is not known.
        queries: topic -> query text.
    """
    if judgments is None or not judgments.judge_lineage:
        return {}
    seen = set(judgments.judge_queries or ())
    topics = sorted(topic for topic, query in queries.items() if query_hash(query) in seen)
    reasons: dict[str, list[str]] = {system: [] for system in systems}
    for system, lineage in systems.items():
        shared = _shared(judgments.judge_lineage, lineage.references if lineage is not None else ())
        if shared:
            reasons[system].append(f"the judge {judgments.judge} and the system share {some(shared)}")
        if topics:
            reasons[system].append(
                f"the judge {judgments.judge} was trained on {len(topics)} of the {len(queries)} topics"
                f" ({some(topics)})"
            )
    return {system: "; ".join(why) for system, why in reasons.items() if why}


def doubts(judgments: JudgmentsCard | None, systems: Mapping[str, RunLineage | None]) -> tuple[str, ...]:
    """What could not be looked into, in sentences to be shown beside the figures."""
    if judgments is None or not (judgments.source == "llm" or judgments.counts.get("llm")):
        return ()
    if not judgments.judge_lineage:
        return ("It is not known who the judge is, nor on which queries it was trained.",)
    found = []
    if judgments.judge_queries is None:
        found.append(f"It is not known on which queries the judge {judgments.judge} was trained.")
    unknown = sorted(system for system, lineage in systems.items() if lineage is None)
    if unknown:
        found.append(f"It is not known which adapters work in {some(unknown)} (a run without a card).")
    return tuple(found)


def refuse_circular(
    judgments: JudgmentsCard | None,
    systems: Mapping[str, RunLineage | None],
    queries: Mapping[str, str],
    *,
    allow: bool = False,
) -> dict[str, str]:
    """Refuse a circular judge; with `allow`, give the reasons back, to be shown wherever a figure is.

    Raises:
        UsageError: naming the first circular system and why.
    """
    reasons = circular(judgments, systems, queries)
    if reasons and not allow:
        system, why = next(iter(reasons.items()))
        raise UsageError(
            f"the judgments are circular for {len(reasons)} of {len(systems)} systems: {why}",
            where=f"system {system}",
            fix="Use judgments of people or of another judge, or say that circular figures are wanted.",
        )
    return reasons


def _shared(judge: Iterable[str], system: Iterable[str]) -> list[str]:
    names = {_name(reference) for reference in system}
    return sorted({reference for reference in judge if _name(reference) in names})


def _name(reference: str) -> str:
    return reference if reference.startswith("base ") else reference.partition("@")[0]
