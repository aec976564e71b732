"""The result of an ablation: the variants, their comparison, costs of slots, and interactions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from searchlora.eval.comparison import Comparison
from searchlora.eval.interaction import Factorial, Interaction, interactions
from searchlora.experiments.experiment_result import ExperimentResult
from searchlora.experiments.slots import FULL, Slot, Variant
from searchlora.systems.measure import SystemResult


@dataclass(frozen=True)
class Ablation:
    """The result of an ablation.

    Attributes:
        slots: Of the pipeline, those that were changed.
        variants: The unchanged pipeline, then every variant with one changed slot.
        experimented: The comparison of the unchanged pipeline with each of these variants, and its inputs.
        interactions: Of pairs of slots that can be left out, in the headline measure.
        costs: Variant -> slot -> mean costs per query. Milliseconds are missing where they were not measured.
        left_out: Name of a variant that cannot be executed -> why.
    """

    slots: tuple[Slot, ...]
    variants: tuple[Variant, ...]
    experimented: ExperimentResult
    interactions: tuple[Interaction, ...]
    costs: Mapping[str, Mapping[str, Mapping[str, float]]]
    left_out: Mapping[str, str]

    @property
    def comparison(self) -> Comparison:
        """The comparison of the unchanged pipeline with the variants."""
        return self.experimented.comparison

    @property
    def reused(self) -> tuple[str, ...]:
        """The variants whose runs an earlier call computed."""
        return self.experimented.reused


def slot_costs(variant: Variant, slots: Sequence[Slot], result: SystemResult) -> dict[str, Mapping[str, float]]:
    """The costs of all slots of the unchanged pipeline, and of the slot that another variant replaces."""
    if variant.kind == "off":
        return {}
    parts = result.raw.parts
    shown = [slot for slot in slots if slot.name in variant.slots or variant.kind is None]
    return {slot.name: parts[slot.key] for slot in shown if slot.key in parts}


def pair_interactions(
    comparison: Comparison,
    pairs: Mapping[tuple[str, str], Variant],
    results: Mapping[str, SystemResult],
) -> tuple[Interaction, ...]:
    """The interactions of the pairs whose four pipelines could all be executed."""
    measure = comparison.measures[0]
    values = comparison.values[measure]
    designs = {}
    for (a, b), variant in pairs.items():
        alone = (f"without {a}", f"without {b}")
        if variant.name in results and all(name in values for name in alone):
            neither = results[variant.name].evaluation.values[measure]
            designs[a, b] = Factorial(values[FULL], values[alone[0]], values[alone[1]], neither)
    clusters = (results and next(iter(results.values())).evaluation.clusters) or {}
    less = measure in comparison.less_is_better
    return interactions(designs, measure, clusters, less_is_better=less, correction=comparison.correction)
