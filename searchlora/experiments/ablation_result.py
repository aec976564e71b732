"""The experiment of an ablation, and its result: the variants, their comparison and costs of slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from searchlora.data.collection import Corpus, CorpusFile
from searchlora.eval.comparison import Comparison
from searchlora.experiments.experiment_result import ExperimentResult
from searchlora.experiments.options import AblationOptions
from searchlora.experiments.spec import Experiment, Source, SystemSettings
from searchlora.pipelines.config import CorpusSettings, PipelineConfig
from searchlora.pipelines.slots import FULL, Slot, Variant
from searchlora.systems.measure import SystemResult


@dataclass(frozen=True)
class Ablation:
    """The result of an ablation.

    Attributes:
        slots: Of the pipeline, those that were changed.
        variants: The unchanged pipeline, then every variant with one changed slot.
        experimented: The comparison of the unchanged pipeline with each of these variants, and its inputs.
        costs: Variant -> slot -> mean costs per query. Milliseconds are missing where they were not measured.
        left_out: Name of a variant that cannot be executed -> why.
    """

    slots: tuple[Slot, ...]
    variants: tuple[Variant, ...]
    experimented: ExperimentResult
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


def variant_experiment(
    config: PipelineConfig,
    topics: str | Path,
    qrels: str | Path,
    corpus: Corpus | None,
    variants: Sequence[Variant],
    options: AblationOptions,
) -> Experiment:
    """The experiment that compares the unchanged pipeline with the variants."""
    columns = {field: list(names) for field, names in corpus.fields.items()} if isinstance(corpus, CorpusFile) else {}
    documents = None if corpus is None else CorpusSettings(file=str(corpus), map=dict(columns))
    return Experiment(
        name=config.name,
        topics=Source(path=Path(topics)),
        qrels=Source(path=Path(qrels)),
        corpus=documents,
        systems={variant.name: SystemSettings(pipeline=config.source) for variant in variants},
        candidate=FULL,
        measures=tuple(options.measures),
        tested=(options.measures[0],),
        relevant=options.relevant,
        cluster=options.cluster,
    )
