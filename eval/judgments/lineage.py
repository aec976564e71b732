"""Circularity check (no judge grades itself): whether a judge is part of the evaluated systems or saw the topics.

A reference is `name@3` for an adapter and `base NAME` for a base model without an adapter: a zero-shot judge, or an
encoder that retrieves. References of the same name are related, whatever their version: versions of one adapter are
trained for one task, mostly from the same data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from searchlora.errors import UsageError, some
from searchlora.eval.judgments.card import JudgmentsCard, RunCard, read_run_card
from searchlora.eval.text_identity import normalised


@dataclass(frozen=True)
class RunLineage:
    """Models of a system: its adapters, all their ancestors, and its bare encoders (`RunCard.lineage`)."""

    references: tuple[str, ...]


def read_lineage(run: str | Path) -> RunLineage | None:
    """Models of a run, from the card beside it; None if unknown. Raises `DataError` as `read_run_card`."""
    return lineage_of(read_run_card(run))


def lineage_of(card: RunCard | None) -> RunLineage | None:
    """Models of a run; None if unknown: it has no card, or takes hits from a source without one."""
    return RunLineage(card.lineage) if card is not None and not card.unknown_sources else None


def query_hash(text: str) -> str:
    """16 hex digits of the sha256 of a query, ignoring case, punctuation and whitespace (`normalised`).

    Examples:
        >>> query_hash("A tent, please!") == query_hash("a  tent please")
        True
    """
    return hashlib.sha256(normalised(text).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def circular(
    judgments: JudgmentsCard | None, systems: Mapping[str, RunLineage | None], queries: Mapping[str, str]
) -> dict[str, str]:
    """System -> reason why its figures are circular; systems without a known reason are absent.

    Args:
        judgments: Card of the qrels; None (unknown source) is never circular.
        systems: name -> models of the system; None if unknown.
        queries: topic -> query text.

    Examples:
        >>> card = JudgmentsCard("llm", "", judge="judge@1", judge_lineage=("judge@1", "old@1"))
        >>> circular(card, {"ours": RunLineage(("old@3",)), "bm25": RunLineage(())}, {})
        {'ours': 'the judge judge@1 and the system share old@1'}
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
    """Sentences on what is unknown about the judge and the systems, to be shown beside the figures."""
    if judgments is None or not (judgments.source == "llm" or judgments.counts.get("llm")):
        return ()
    if not judgments.judge_lineage:
        return ("It is not known who the judge is, nor on which queries it was trained.",)
    sentences = []
    if judgments.judge_queries is None:
        sentences.append(f"It is not known on which queries the judge {judgments.judge} was trained.")
    unknown = sorted(system for system, lineage in systems.items() if lineage is None)
    if unknown:
        sentences.append(f"It is not known which adapters work in {some(unknown)} (a run without a card).")
    return tuple(sentences)


def refuse_circular(
    judgments: JudgmentsCard | None,
    systems: Mapping[str, RunLineage | None],
    queries: Mapping[str, str],
    *,
    allow: bool = False,
) -> dict[str, str]:
    """Refuse a circular judge; with `allow`, return the reasons, to be shown beside every figure."""
    reasons = circular(judgments, systems, queries)
    if reasons and not allow:
        system, why = next(iter(reasons.items()))
        raise UsageError(
            f"the judgments are circular for {len(reasons)} of {len(systems)} systems: {why}",
            where=f"system {system}",
            fix="Use human judgments or another judge, or allow circular figures.",
        )
    return reasons


def _shared(judge: Iterable[str], system: Iterable[str]) -> list[str]:
    names = {_name(reference) for reference in system}
    return sorted({reference for reference in judge if _name(reference) in names})


def _name(reference: str) -> str:
    return reference if reference.startswith("base ") else reference.partition("@")[0]
