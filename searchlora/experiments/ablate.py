"""The verb `ablate`: what each slot of a pipeline brings, on topics with judgments.

The unchanged pipeline is compared with the pipeline without each slot, with the base model in place of each adapter,
and with the previous version of each adapter; and pairs of slots that can be left out are tested for interaction.
Finished runs are kept, so an ablation that was interrupted goes on with the variants that are missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.data.collection import Corpus, CorpusFile, index_folder
from searchlora.errors import LoadCheckFailed, PipelineError, StaleIndex, UsageError
from searchlora.eval.comparison import Comparison
from searchlora.eval.interaction import Factorial, Interaction, interactions
from searchlora.eval.measures import parse_measure
from searchlora.experiments.experiment import ExperimentResult, RunFolder, measured
from searchlora.experiments.experiment_inputs import hashes
from searchlora.experiments.options import AblationOptions, Kind
from searchlora.experiments.slots import FULL, Slot, Variant, find_slots, with_base, with_older, without
from searchlora.experiments.spec import Experiment, Source, SystemSettings
from searchlora.experiments.stage_costs import Cost, Place, SharedStages
from searchlora.files.result_cache import cache_key
from searchlora.inference.engines import Engines
from searchlora.pipelines.config import CorpusSettings, PipelineConfig, read_pipeline
from searchlora.pipelines.corpus import IndexedCorpus, open_corpus
from searchlora.pipelines.pipeline import Pipeline, build_pipeline, own_corpus
from searchlora.pipelines.stages.stage import Needs, StageSettings, check_order, pinned, produces_hits
from searchlora.progress import Progress, Steps, no_progress, silent
from searchlora.records import Record
from searchlora.systems.measure import SystemResult, run_systems
from searchlora.systems.models import check_loads
from searchlora.systems.pipeline import PipelineSystem, Plan, outputs_of, plan_of, searches_of
from searchlora.systems.system import Outputs
from searchlora.task import load_task


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


def ablate(
    pipeline: str | Path | PipelineConfig,
    topics: str | Path,
    qrels: str | Path,
    out: str | Path,
    options: AblationOptions = AblationOptions(),
    *,
    corpus: Corpus | None = None,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = no_progress,
) -> Ablation:
    """Compare a pipeline with the pipelines in which one of its slots is left out or replaced.

    Args:
        pipeline: A YAML file, the name of a built-in pipeline or of a YAML file here, or what `read_pipeline` made of
            one, with overrides and an engine.
        topics: Rows with `id`, `query` and fields that stages read.
        qrels: Judgments; a card beside the file names their source.
        out: Folder in which the run of each variant is kept.
        options: What is changed and measured.
        corpus: Documents. Default: the file that the pipeline names.
        store, tasks, steps: See `Pipeline.load`.

    Raises:
        PipelineError: for a pipeline that cannot be read, does not retrieve, or fails on a topic.
        UsageError: for an unknown slot or measure, a pipeline without a slot that can be changed, or a circular judge.
        DataError: if a file cannot be read, or no judged topic is among the topics.
    """
    for name in options.measures:
        parse_measure(name)
    store = Store.of(store)
    config = pipeline if isinstance(pipeline, PipelineConfig) else read_pipeline(pipeline)
    check_order(config.stages, config.source)
    if not produces_hits(config.stages):
        raise PipelineError("no stage produces hits, so there is nothing to compare", where=config.source)
    if corpus is None:
        corpus = own_corpus(config)
    stages = pinned(config.stages, store.pin)
    slots = _chosen(find_slots(stages), options.slots, config.source)
    variants, left_out = _variants(stages, slots, options.kinds, store, tasks)
    variants = _with_vectors(variants, slots, corpus, store, left_out)
    if len(variants) == 1:
        raise UsageError(
            f"no slot of {', '.join(slot.name for slot in slots) or 'the pipeline'} can be changed"
            + "".join(f"; {name}: {why}" for name, why in left_out.items()),
            where=config.source,
        )
    pairs = _pairs(stages, slots, variants) if options.interactions else {}
    everything = {variant.name: variant for variant in (*variants, *pairs.values())}
    spec = _spec(config, topics, qrels, corpus, everything, options)
    engines = Engines(store)
    plans = {name: plan_of(config.name, variant.stages, engines, tasks) for name, variant in everything.items()}
    inputs = {**hashes(spec), **{f"system {name}": plan.sha256 for name, plan in plans.items()}}
    runs = RunFolder(Path(out) / "runs")
    shared = SharedStages(
        [plan.stages for plan in plans.values()],
        store=store,
        documents=partial(_documents, corpus),
        tasks=tasks,
        steps=steps,
    )
    costed = _costed(find_slots(stages), variants)
    systems = {
        name: _VariantSystem(
            variant,
            plans[name],
            shared,
            store,
            costed.get(name, ()),
            corpus=inputs.get("corpus"),
            topics=spec.topics.path,
        )
        for name, variant in everything.items()
    }
    single = [systems[variant.name] for variant in variants]
    experimented = measured(spec, single, inputs, runs, allow_circular=options.allow_circular, steps=steps)
    judged = experimented.topics
    double, _ = run_systems(
        [systems[variant.name] for variant in pairs.values()],
        judged.rows,
        dataclasses.replace(judged.measures(), names=[options.measures[0]], unjudged=False),
        runs,
        allow_circular=options.allow_circular,
        measured=runs.keep,
        steps=steps,
    )
    left_out |= experimented.measurement.left_out
    unused = tuple(f"{name} is left out: {why}." for name, why in left_out.items())
    comparison = experimented.comparison
    comparison = dataclasses.replace(comparison, notes=(*comparison.notes, *unused))
    measurement = dataclasses.replace(experimented.measurement, comparison=comparison)
    return Ablation(
        slots,
        tuple(variant for variant in variants if variant.name in measurement.results),
        dataclasses.replace(experimented, measurement=measurement),
        _interactions(comparison, pairs, double),
        {
            name: {slot.name: result.raw.parts[slot.name] for slot in slots if slot.name in result.raw.parts}
            for name, result in measurement.results.items()
        },
        left_out,
    )


# Variants


def _chosen(slots: Sequence[Slot], only: Sequence[str], source: str) -> tuple[Slot, ...]:
    known = ", ".join(slot.name for slot in slots) or "none"
    for name in only:
        if name not in [slot.name for slot in slots]:
            raise UsageError(f"the pipeline has no slot '{name}'", where=source, fix=f"Its slots: {known}.")
    return tuple(slot for slot in slots if not only or slot.name in only)


def _variants(
    stages: Sequence[StageSettings],
    slots: Sequence[Slot],
    kinds: Sequence[Kind],
    store: Store,
    tasks: str | Path | None,
) -> tuple[list[Variant], dict[str, str]]:
    """The unchanged pipeline and those with one changed slot; and which cannot be made, with the reason."""
    variants: list[Variant | None] = [Variant(FULL, tuple(stages))]
    left_out: dict[str, str] = {}
    for slot in slots:
        if "off" in kinds:
            try:
                variants.append(without(stages, slot))
            except PipelineError as error:
                left_out[f"without {slot.name}"] = error.what
        if "base" in kinds:
            variants.append(with_base(stages, slot))
        if "older" in kinds and (older := with_older(stages, slot, store)) is not None:
            try:
                stored = store.get(older.adapter)
                check_loads(stored, stored.manifest.base.resolve(), load_task(stored.manifest.task, tasks))
                variants.append(older)
            except LoadCheckFailed as error:
                left_out[older.name] = error.what
    return [variant for variant in variants if variant is not None], left_out


def _with_vectors(
    variants: Sequence[Variant],
    slots: Sequence[Slot],
    corpus: Corpus | None,
    store: Store,
    left_out: dict[str, str],
) -> list[Variant]:
    """The variants without those whose encoder the index has no vectors of; they are added to `left_out`.

    A corpus that is no index folder is encoded by each encoder, so that nothing can be missing.
    """
    places = {slot.name: slot.place for slot in slots}
    indexed = corpus is not None and index_folder(corpus) is not None
    source = _documents(corpus if indexed else None)
    usable = []
    for variant in variants:
        leaf = _at(variant.stages, places[variant.slots[0]]) if variant.kind in ("base", "older") else None
        needs = leaf.needs() if leaf is not None and leaf.produces_hits else Needs()
        if (needs.encoders or needs.adapters) and (indexed or not needs.documents):
            try:
                build_pipeline("vectors", [leaf] if leaf else [], store=store, documents=source)
            except StaleIndex as error:
                left_out[variant.name] = f"{error.what} ({error.where})"
                continue
        usable.append(variant)
    return usable


def _documents(corpus: Corpus | None) -> IndexedCorpus:
    return IndexedCorpus(()) if corpus is None else open_corpus(corpus)


def _at(stages: Sequence[StageSettings], place: Place) -> StageSettings:
    first, *parts = place
    return _at(stages[first].parts, tuple(parts)) if parts else stages[first]


def _pairs(
    stages: Sequence[StageSettings], slots: Sequence[Slot], variants: Sequence[Variant]
) -> dict[tuple[str, str], Variant]:
    """Two slots -> the pipeline without both, for those that can be left out alone and together."""
    alone = {variant.slots[0] for variant in variants if variant.kind == "off"}
    pairs = {}
    for a, b in combinations([slot for slot in slots if slot.name in alone], 2):
        try:
            pairs[a.name, b.name] = without(stages, a, b)
        except PipelineError:
            continue  # nothing would retrieve
    return pairs


def _costed(slots: Sequence[Slot], variants: Sequence[Variant]) -> dict[str, Sequence[Slot]]:
    """Variant -> the slots whose costs are kept: all of the unchanged pipeline, and a slot that is replaced."""
    replaced = [variant for variant in variants if variant.kind in ("base", "older")]
    return {FULL: slots, **{one.name: [slot for slot in slots if slot.name in one.slots] for one in replaced}}


# Runs


def _spec(
    config: PipelineConfig,
    topics: str | Path,
    qrels: str | Path,
    corpus: Corpus | None,
    variants: Mapping[str, Variant],
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
        systems={name: SystemSettings(pipeline=config.source) for name in variants},
        candidate=FULL,
        measures=tuple(options.measures),
        tested=(options.measures[0],),
        relevant=options.relevant,
        cluster=options.cluster,
    )


class _VariantSystem(PipelineSystem):
    """A variant of a pipeline; what it shares with other variants is computed once.

    Args:
        costed: The slots whose costs are kept.
    """

    batch_size = None  # a stage is shared for all topics or for none

    def __init__(
        self, variant: Variant, plan: Plan, shared: SharedStages, store: Store, costed: Sequence[Slot], **inputs: Any
    ) -> None:
        super().__init__(variant.name, plan, self._assembled, store, **inputs)
        self.optional = variant.kind == "off"
        self._shared, self._costed = shared, costed

    @property
    def fingerprint(self) -> str | None:
        """With the slots whose costs are kept with the results."""
        known = super().fingerprint
        return None if known is None else cache_key(known, [slot.name for slot in self._costed])

    def run(self, rows: Sequence[Record], progress: Progress = silent) -> Outputs:
        done, costs = self._shared.execute(self.plan.stages, searches_of(rows, self._topics), progress)
        total = sum((cost for place, cost in costs.items() if len(place) == 1), Cost())
        parts = {slot.name: costs[slot.place].per(len(done)) for slot in self._costed}
        return outputs_of(done, total.per(len(done)), parts)

    def finish(self) -> None:
        super().finish()
        self._shared.finish(self.plan.stages)

    def _assembled(self, plan: Plan) -> Pipeline:
        return self._shared.pipeline(plan.pipeline, plan.stages)


def _interactions(
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
