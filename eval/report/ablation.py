"""Section of an ablation: what each slot of a pipeline brings and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from searchlora.eval.comparison import Comparison, PairedComparison
from searchlora.eval.formatting import number, p_value
from searchlora.eval.report.blocks import Section, Text, estimate, line, table
from searchlora.eval.report.sections import difference
from searchlora.eval.significance import CORRECTION_NAMES


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


def slots_section(comparison: Comparison, slots: Sequence[SlotLine]) -> Section:
    """What each slot brings: the headline with something else in its place, and the difference from that."""
    measure, costs = comparison.measures[0], list(dict.fromkeys(name for slot in slots for name in slot.costs))
    pairs = [pair for slot in slots if (pair := slot.pair(comparison)) is not None]
    lines = []
    for slot in slots:
        score, pair = comparison.row(slot.system, measure), slot.pair(comparison)
        cells = [
            slot.slot,
            f"{slot.shown} (circular)" if slot.system in comparison.circular else slot.shown,
            estimate(score.value, score.low, score.high),
            "" if pair is None else difference(comparison, pair),
            "" if pair is None else p_value(pair.p_corrected),
            *(number(slot.costs.get(name), ",.4g") for name in costs),
        ]
        lines.append(line(cells, slot.system == comparison.candidate))
    head = ["slot", "in its place", measure, "unchanged minus this", "p corrected", *costs]
    note = (
        f"n = {comparison.row(slots[0].system, measure).n}. 95% intervals of paired differences; p by paired "
        f"randomisation, corrected by {CORRECTION_NAMES[comparison.correction]} over {len(comparison.comparisons)} "
        "comparisons. A highlighted difference is significant at 0.05 after correction. Costs are those of the slot "
        "alone, means over the run with its batching; tokens are those of LLMs. A dash: not measured, because an "
        "equal computation of another variant was reused, or measured on another machine. "
        f"{comparison.disagreements(pairs)}"
    )
    return Section(
        "slots",
        "What each slot brings",
        (table("What each slot brings", head, lines, words=2), Text(note.rstrip())),
        "The difference is the unchanged pipeline minus the one with something else in the place of the slot: above 0,"
        " the slot as it is brings something.",
    )
