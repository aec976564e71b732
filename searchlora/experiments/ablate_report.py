"""Result files of an ablation: JSON, Markdown, per-query JSONL and an HTML report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from searchlora.eval.report.ablation import SlotLine, interactions_section, slots_section
from searchlora.eval.report.blocks import Section, markdown
from searchlora.eval.report.comparison import write_report
from searchlora.experiments.ablate import Ablation
from searchlora.experiments.experiment_inputs import measured_by
from searchlora.experiments.experiment_report import details
from searchlora.experiments.result_files import header, provenance, write_figures
from searchlora.experiments.slots import FULL

STEM = "ablation"


def write_ablation(ablation: Ablation, folder: Path) -> Path:
    """Write `ablation.json`, `ablation.md`, `per_query.jsonl` and `report.html`; returns the path of the report.

    Raises:
        DataError: if they cannot be written.
    """
    experimented = ablation.experimented
    name, comparison = experimented.spec.name, ablation.comparison
    about = header(name)
    report = write_report(
        folder / "report.html",
        f"Ablation of {name}",
        comparison,
        details(experimented),
        {**{f"{label}, sha256": digest for label, digest in experimented.inputs.items()}, **provenance(about)},
        introduction=(
            f"The pipeline {name} and {len(ablation.variants) - 1} variants of it on {len(experimented.topics.qrels)}"
            f" judged topics; the judgments are {experimented.topics.graded.source} ({experimented.topics.graded})."
        ),
        base=FULL,
        first=_sections(ablation),
    )
    write_figures(folder, STEM, comparison, about, _more(ablation), head=ablation_markdown(ablation))
    return report


def ablation_json(ablation: Ablation) -> dict[str, Any]:
    """What each slot brings and costs, and the interactions, as JSON."""
    lines = []
    for line in slot_lines(ablation):
        pair = line.pair(ablation.comparison)
        row = ablation.comparison.row(line.system, ablation.comparison.measures[0])
        compared = {} if pair is None else {key: vars(pair)[key] for key in _PAIR}
        known = {"slot": line.slot, "in_its_place": line.shown, "system": line.system}
        lines.append({**known, "value": row.value, **compared, "costs": dict(line.costs)})
    return {
        "measure": ablation.comparison.measures[0],
        "slots": lines,
        "interactions": [
            {**vars(interaction), "reading": interaction.reading} for interaction in ablation.interactions
        ],
        "left_out": dict(ablation.left_out),
    }


_PAIR = ("difference", "low", "high", "p", "p_corrected", "n")


def ablation_markdown(ablation: Ablation) -> str:
    """The tables of slots and of interactions."""
    return markdown(_sections(ablation)).rstrip()


def _sections(ablation: Ablation) -> list[Section | None]:
    comparison = ablation.comparison
    slots = slots_section(comparison, list(slot_lines(ablation)))
    return [slots, interactions_section(ablation.interactions, comparison.correction)]


def slot_lines(ablation: Ablation) -> Iterator[SlotLine]:
    """For each slot, a line for the slot as it is, and one for each thing in its place."""
    for slot in ablation.slots:
        own = ablation.costs.get(FULL, {}).get(slot.name, {})
        yield SlotLine(slot.name, slot.adapter or "as it is", FULL, own)
        for variant in ablation.variants:
            if variant.slots == (slot.name,):
                replaced = ablation.costs.get(variant.name, {}).get(slot.name, {})
                costs = dict.fromkeys(own, 0.0) if variant.kind == "off" else replaced
                yield SlotLine(slot.name, variant.shown, variant.name, costs)


def _more(ablation: Ablation) -> dict[str, Any]:
    experimented = ablation.experimented
    ablation_figures = ablation_json(ablation)
    return {
        "inputs": dict(experimented.inputs),
        "measured": measured_by(experimented.spec),
        "judgments": experimented.topics.graded.source,
        "judgments by source": dict(experimented.topics.graded.counts),
        "variants": [
            {
                "name": variant.name,
                "kind": variant.kind,
                "slots": list(variant.slots),
                "stages": [
                    {stage.kind: stage.model_dump(mode="json", exclude_defaults=True)} for stage in variant.stages
                ],
            }
            for variant in ablation.variants
        ],
        "slots": ablation_figures["slots"],
        "interactions": [dataclasses.asdict(interaction) for interaction in ablation.interactions],
        "left_out": ablation_figures["left_out"],
    }
