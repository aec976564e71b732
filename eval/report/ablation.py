"""Sections of an ablation: what each slot of a pipeline brings and costs, and which slots interact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from searchlora.eval.comparison import Comparison, PairedComparison
from searchlora.eval.interaction import Interaction, interaction_disagreements
from searchlora.eval.report.page import Section
from searchlora.eval.significance import CORRECTION_NAMES, LEVEL


@dataclass(frozen=True)
class SlotLine:
    """A slot with what is in its place.

    Attributes:
        slot: Its name.
        shown: What is in its place, in a few words.
        system: The system of the comparison with it in this place; the candidate is the unchanged pipeline.
        costs: Mean costs of the slot per query, by name.
    """

    slot: str
    shown: str
    system: str
    costs: Mapping[str, float]

    def pair(self, comparison: Comparison) -> PairedComparison | None:
        """The comparison of the unchanged pipeline with this one in the headline; None for the unchanged one."""
        candidate = comparison.candidate
        if candidate is None or self.system == candidate:
            return None
        return comparison.pair(candidate, self.system, comparison.measures[0])


def cost_names(lines: Sequence[SlotLine]) -> list[str]:
    """The names of the costs of all lines, in order."""
    return list(dict.fromkeys(name for line in lines for name in line.costs))


def slots_section(comparison: Comparison, lines: Sequence[SlotLine]) -> Section:
    """What each slot brings: the headline with something else in its place, and the difference from that."""
    measure, costs = comparison.measures[0], cost_names(lines)
    rows = [
        {
            "slot": line.slot,
            "shown": line.shown,
            "ours": line.system == comparison.candidate,
            "figure": comparison.row(line.system, measure),
            "pair": (pair := line.pair(comparison)),
            "verdict": _verdict(comparison, pair),
            "costs": [line.costs.get(name) for name in costs],
        }
        for line in lines
    ]
    content: dict[str, Any] = {
        "measure": measure,
        "costs": costs,
        "rows": rows,
        "correction": CORRECTION_NAMES[comparison.correction],
        "count": len(comparison.comparisons),
        "disagreements": comparison.disagreements(
            pair for line in lines if (pair := line.pair(comparison)) is not None
        ),
    }
    return Section(
        "slots",
        "What each slot brings",
        "ablation.slots",
        content,
        "The difference is the unchanged pipeline minus the one with something else in the place of the slot: above 0,"
        " the slot as it is brings something.",
    )


def interactions_section(interactions: Sequence[Interaction], correction: str) -> Section | None:
    """The interactions of pairs of slots; None without any."""
    if not interactions:
        return None
    content = {
        "measure": interactions[0].measure,
        "interactions": interactions,
        "level": LEVEL,
        "correction": CORRECTION_NAMES[correction],
        "disagreements": interaction_disagreements(interactions),
    }
    return Section(
        "interactions",
        "Interactions of two slots",
        "ablation.interactions",
        content,
        "How much more, or less, a slot brings where the other one works too.",
    )


def _verdict(comparison: Comparison, pair: PairedComparison | None) -> str:
    if pair is None or not pair.p_corrected <= LEVEL:
        return "even"
    return "good" if comparison.gain(pair.measure, pair.difference) > 0 else "bad"
