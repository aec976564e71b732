"""Cards of judgments that were derived from others: declared, or of several files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from searchlora.eval.judgments.card import JudgmentsCard
from searchlora.eval.judgments.sources import SOURCES, Source, SourceCounts


def declared_card(source: Source, count: int) -> JudgmentsCard:
    """The card of judgments whose source a user declared. It has no time, so that the same build has the same bytes."""
    return JudgmentsCard(source, created="", judge_queries=None if source == "llm" else (), counts={source: count})


def graded_card(cards: Sequence[JudgmentsCard], counts: SourceCounts) -> JudgmentsCard:
    """The card of grades from files with cards, by the sources that the grades have.

    The word for a combination of sources without a word of its own is `mixed`.
    """
    source: Source = next((known for known in SOURCES if known == counts.source), "mixed")
    if source == "human":  # a judge whose grades were left out did not grade
        cards = [card for card in cards if card.source == "human"]
    card = merged_card(cards) if cards else declared_card(source, 0)
    return replace(card, source=source, counts={str(name): number for name, number in counts.counts.items()})


def merged_card(cards: Sequence[JudgmentsCard]) -> JudgmentsCard:
    """The card of judgments from several files: every judge and every ancestor, so that none is forgotten.

    Args:
        cards: At least one. Source, counts and the files beside it are the caller's.
    """
    bases, prompts, engines = ({getattr(card, name) for card in cards} for name in ("base", "prompt_hash", "engine"))
    scales, relevant = {card.scale for card in cards}, {card.relevant for card in cards}
    queries = [card.judge_queries for card in cards]
    return JudgmentsCard(
        cards[0].source,
        max(card.created for card in cards),
        judge=", ".join(dict.fromkeys(card.judge for card in cards if card.judge is not None)) or None,
        judge_lineage=tuple(dict.fromkeys(reference for card in cards for reference in card.judge_lineage)),
        base=bases.pop() if len(bases) == 1 else None,
        prompt_hash=prompts.pop() if len(prompts) == 1 else None,
        judge_queries=None if None in queries else tuple(sorted({query for some in queries for query in some or ()})),
        rule="; ".join(dict.fromkeys(card.rule for card in cards if card.rule is not None)) or None,
        made_from={name: sha256 for card in cards for name, sha256 in card.made_from.items()},
        engine=engines.pop() if len(engines) == 1 else None,
        scale=scales.pop() if len(scales) == 1 else (),
        relevant=relevant.pop() if len(relevant) == 1 else None,
        served=tuple(dict.fromkeys(name for card in cards for name in card.served)),
    )
